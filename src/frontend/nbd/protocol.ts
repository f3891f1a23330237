/**
 * Numbers of the NBD protocol (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md), as far as this server speaks it: fixed newstyle, simple and structured
 * replies, base:allocation. Everything on the wire is big-endian. Not spoken: oldstyle, extended headers, resize.
 */
/** Begins the server's greeting: "NBDMAGIC" and "IHAVEOPT", the latter also every option. */
export const GREETING_MAGIC = 'NBDMAGIC'
export const OPTION_MAGIC = 'IHAVEOPT'
export const OPTION_REPLY_MAGIC: Buffer = Buffer.from('0003e889045565a9', 'hex')
export const REQUEST_MAGIC = 0x25609513
export const SIMPLE_REPLY_MAGIC = 0x67446698
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef

/** Handshake flags, and the client's of the same meaning. */
export const HANDSHAKE_FLAG = { fixedNewstyle: 1, noZeroes: 2 } as const

export const OPTION = {
  exportName: 1,
  abort: 2,
  list: 3,
  startTls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
} as const

export const OPTION_REPLY = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  unsupported: 0x80000001,
  policy: 0x80000002,
  invalid: 0x80000003,
  tlsRequired: 0x80000005,
  unknown: 0x80000006,
  tooBig: 0x80000009,
} as const

export const INFORMATION = { export: 0, name: 1, blockSize: 3 } as const

export const TRANSMISSION_FLAG = {
  hasFlags: 1,
  readOnly: 2,
  sendFlush: 4,
  sendFua: 8,
  sendTrim: 0x20,
  sendWriteZeroes: 0x40,
  sendDontFragment: 0x80,
  canMultiConn: 0x100,
  sendCache: 0x400,
  sendFastZero: 0x800,
} as const

export const COMMAND = { read: 0, write: 1, disconnect: 2, flush: 3, trim: 4, cache: 5, writeZeroes: 6, blockStatus: 7 } as const

export const COMMAND_FLAG = { fua: 1, noHole: 2, dontFragment: 4, requestOne: 8, fastZero: 16 } as const

/** Structured replies. */
export const CHUNK = { none: 0, offsetData: 1, offsetHole: 2, blockStatus: 5, error: 0x8001 } as const
export const CHUNK_FLAG_DONE = 1

/** Of base:allocation. */
export const STATE_HOLE = 1
export const STATE_ZERO = 2
export const ALLOCATION_CONTEXT = 'base:allocation'
/** Given out for it. */
export const ALLOCATION_CONTEXT_ID = 1

/** Errors that the protocol itself calls for; those of images are in ../errno.ts, with the same numbers. */
export const NBD_ERROR = { none: 0, permission: 1, io: 5, invalid: 22, noSpace: 28, overflow: 75, unsupported: 95 } as const

/** Bytes of a request before its payload; of replies before theirs. */
export const REQUEST_BYTES = 28
export const SIMPLE_REPLY_BYTES = 16
export const CHUNK_BYTES = 20
export const OPTION_BYTES = 16

/** Strings are no longer (section "Values"). */
export const STRING_BYTES_MAX = 4096
/** What every server should take (section "Size constraints"). */
export const PAYLOAD_BYTES_MAX: number = 32 * 2 ** 20
export const BLOCK_BYTES_MIN = 1
export const BLOCK_BYTES_PREFERRED = 4096
