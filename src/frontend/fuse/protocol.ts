/**
 * The kernel's side of FUSE, as far as it is spoken here: numbers and places of <linux/fuse.h>, version 7.31 and later. Structures are made of little-endian 32-bit words and
 * are aligned to 8 bytes, so a place is the index of a word: of a request from its beginning, of a reply from the end of its header.
 */

export const FUSE_MAJOR = 7
/** The newest minor version whose structures these are. */
export const FUSE_MINOR = 38
/** FUSE_MAX_PAGES is of 7.28, the last structure that is used here of 7.31. */
export const FUSE_MINOR_MIN = 31

export const ROOT_NODE = 1

export const OPCODE = {
  lookup: 1,
  forget: 2,
  getattr: 3,
  setattr: 4,
  symlink: 6,
  mknod: 8,
  mkdir: 9,
  unlink: 10,
  rmdir: 11,
  rename: 12,
  link: 13,
  open: 14,
  read: 15,
  write: 16,
  statfs: 17,
  release: 18,
  fsync: 20,
  flush: 25,
  init: 26,
  opendir: 27,
  readdir: 28,
  releasedir: 29,
  fsyncdir: 30,
  create: 35,
  interrupt: 36,
  destroy: 38,
  batchForget: 42,
  fallocate: 43,
  rename2: 45,
  lseek: 46,
  tmpfile: 51,
} as const

/** struct fuse_in_header; what belongs to the request follows at `body`. */
export const HEADER = { length: 0, opcode: 1, unique: 2, node: 4, pid: 8, body: 10 } as const
export const HEADER_BYTES = 40
/** struct fuse_init_in. */
export const INIT_IN = { major: 10, minor: 11, maxReadAhead: 12, flags: 13 } as const
/** struct fuse_setattr_in. */
export const SETATTR_IN = { valid: 10, size: 14, mtime: 20, mtimeNanoseconds: 25, mode: 27, uid: 29, gid: 30 } as const
/** struct fuse_open_in. */
export const OPEN_IN = { flags: 10 } as const
/** struct fuse_release_in. */
export const RELEASE_IN = { flags: 12 } as const
/** struct fuse_read_in, fuse_write_in: of both these come first. */
export const TRANSFER_IN = { offset: 12, size: 14 } as const
/** struct fuse_write_in; and of its flags: bytes of the page cache, whose writer has gone on long ago. */
export const WRITE_IN = { flags: 15 } as const
export const WRITE_CACHE = 1
/** Byte where what is to be written begins: behind struct fuse_write_in. */
export const WRITE_BYTES_AT = 80
/** struct fuse_fallocate_in. */
export const FALLOCATE_IN = { offset: 12, length: 14, mode: 16 } as const
/** struct fuse_lseek_in. */
export const LSEEK_IN = { offset: 12, whence: 14 } as const
/** struct fuse_interrupt_in. */
export const INTERRUPT_IN = { unique: 10 } as const

/** struct fuse_out_header. */
export const REPLY_HEADER = { length: 0, error: 1, unique: 2 } as const
export const REPLY_HEADER_BYTES = 16

/** struct fuse_attr. */
export const ATTR = {
  ino: 0,
  size: 2,
  blocks: 4,
  atime: 6,
  mtime: 8,
  ctime: 10,
  nanoseconds: 12,
  mode: 15,
  nlink: 16,
  uid: 17,
  gid: 18,
  blockSize: 20,
} as const
/** struct fuse_attr_out. */
export const ATTR_OUT = { valid: 0, attr: 4 } as const
export const ATTR_OUT_BYTES = 104
/** struct fuse_entry_out. */
export const ENTRY_OUT = { node: 0, entryValid: 4, attrValid: 6, attr: 10 } as const
export const ENTRY_OUT_BYTES = 128
/** struct fuse_init_out. `background` holds max_background and, in its upper half, congestion_threshold; `maxPages` map_alignment. */
export const INIT_OUT = {
  major: 0,
  minor: 1,
  maxReadAhead: 2,
  flags: 3,
  background: 4,
  maxWrite: 5,
  timeGranularity: 6,
  maxPages: 7,
} as const
export const INIT_OUT_BYTES = 64
/** struct fuse_open_out. */
export const OPEN_OUT = { flags: 2 } as const
export const OPEN_OUT_BYTES = 16
/** struct fuse_statfs_out. */
export const STATFS_OUT = { blocks: 0, files: 6, blockSize: 10, nameLength: 11, fragmentSize: 12 } as const
export const STATFS_OUT_BYTES = 80
export const WRITE_OUT_BYTES = 8
export const LSEEK_OUT_BYTES = 8
/** struct fuse_dirent: then the name, padded to 8 bytes. */
export const DIRENT = { ino: 0, next: 2, nameLength: 4, type: 5 } as const
export const DIRENT_BYTES = 24

/** Flags of INIT. */
export const FEATURE = {
  asyncRead: 0x1,
  bigWrites: 0x20,
  asyncDirectIo: 0x8000,
  parallelDirectoryOperations: 0x40000,
  maxPages: 0x400000,
} as const

/** Flags of SETATTR: which fields are set. */
export const SET = { mode: 0x1, uid: 0x2, gid: 0x4, size: 0x8, mtime: 0x20, mtimeNow: 0x100 } as const

/** Flags of an opened file. */
export const OPENED = { keepCache: 0x2, cacheDirectory: 0x8 } as const

/** O_ACCMODE of open(2), and its value for reading. */
export const ACCESS_MODE = 3
export const READ_ONLY = 0

/** Of lseek(2). The kernel answers the others itself. */
export const WHENCE = { data: 3, hole: 4 } as const

/** Of fallocate(2). */
export const FALLOCATE = { keepSize: 1, punchHole: 2, zeroRange: 16 } as const

/** Types of files (<linux/stat.h>), and of entries (<dirent.h>). */
export const S_IFDIR = 0o040000
export const S_IFREG = 0o100000
export const PERMISSION_BITS = 0o7777
export const DT_DIR = 4
export const DT_REG = 8

/** <asm-generic/errno.h>. */
export const EPROTO = 71
