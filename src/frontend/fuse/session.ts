/**
 * One mount's conversation with the kernel: takes a request, answers it, now or when its bytes have come. Needs no kernel itself: the transport can be anything.
 *
 * The kernel keeps pages, names and attributes (FOPEN_KEEP_CACHE, long times), for what is read never changes but through it. It collects no writes: a write(2) is in the
 * overlay when it returns, so FLUSH and FSYNC have nothing left to do; what was written through a mapping comes as WRITE before FSYNC is sent.
 *
 * It sends no ACCESS (the mount has `default_permissions`), and none of what was not asked for in INIT. Whatever is not served is ENOSYS, which the kernel remembers.
 */

import { PAGE_BYTES } from '../../chunk.ts'
import type { ErrorCode } from '../../errors.ts'
import { type PagerLoop, type ServedImage, TRANSFER_BYTES_MAX } from '../../pager.ts'
import { ERRNO } from '../../util/native.ts'
import { Answers, BODY_BYTES, type Transport, type Unique } from './device.ts'
import * as fuse from './protocol.ts'
import { OPCODE } from './protocol.ts'
import { Requests } from './requests.ts'
import { Seek } from './seek.ts'
import type { FileLook } from './spec.ts'
import { type FileNode, get64, put64, Tree } from './tree.ts'

/** Largest request: a WRITE. The kernel wants room for max_write and both headers, and reads nothing into less. */
export const REQUEST_BYTES_MAX: number = TRANSFER_BYTES_MAX + PAGE_BYTES
/** Requests of the kernel's own (read-ahead, write-back, direct I/O) that it sends before it waits for answers; and from when on it calls the device congested. */
const BACKGROUND_MAX = 64
const CONGESTED = 48
const FEATURES =
  fuse.FEATURE.asyncRead |
  fuse.FEATURE.bigWrites |
  fuse.FEATURE.asyncDirectIo |
  fuse.FEATURE.parallelDirectoryOperations |
  fuse.FEATURE.maxPages

/** What a request comes to: an errno to answer with, 0 if it was done and there is nothing to say, or this: it has its answer, or waits for it, or gets none. */
const ANSWERED = -1

export interface SessionOptions {
  readonly images: ReadonlyMap<string, ServedImage>
  readonly look: FileLook
  /** Names. */
  readonly writable: readonly string[]
  readonly readAheadBytes: number
  readonly loop: Pick<PagerLoop, 'after'>
  /** An image was opened by this process. */
  readonly onOpened: (pid: number) => void
  readonly onUnreadable: (image: string, page: number, code: ErrorCode | undefined) => void
  /** What was written to these pages is lost. */
  readonly onDamaged: (image: string, page: number, count: number, code: ErrorCode | undefined) => void
  readonly onRoom: () => void
  /** Something was thrown outside of `handle`: a bug. Whoever is told calls `endBroken`. */
  readonly onBroken: (error: unknown) => void
}

export class FuseSession implements Unique {
  /** Where the transport puts a request. */
  readonly request: Buffer = Buffer.from(new ArrayBuffer(REQUEST_BYTES_MAX))
  readonly answers: Answers
  readonly loop: Pick<PagerLoop, 'after'>
  /** Of the request that is being handled. */
  low = 0
  high = 0
  readonly #words = new Uint32Array(this.request.buffer)
  readonly #tree: Tree
  readonly #requests: Requests
  readonly #options: SessionOptions
  #isClosed = false

  constructor(transport: Transport, options: SessionOptions) {
    this.#options = options
    this.loop = options.loop
    this.answers = new Answers(transport)
    this.#tree = new Tree(options.images, options.look, options.writable)
    this.#requests = new Requests(this)
  }

  /** Whether too many requests wait for another one to be handled. */
  get isFull(): boolean {
    return this.#requests.isFull
  }

  /** Whether somebody may have written what the kernel has not sent: through handles that are open, or mappings. */
  get hasWriters(): boolean {
    return this.#tree.hasWriters
  }

  get waitingCount(): number {
    return this.#requests.waitingCount
  }

  onUnreadable({ image }: FileNode, page: number, code: ErrorCode | undefined): void {
    this.#options.onUnreadable(image.name, page, code)
  }

  onLost({ image }: FileNode, offset: number, sizeBytes: number, code: ErrorCode | undefined): void {
    image.lose(offset, sizeBytes)
    const page = Math.floor(offset / PAGE_BYTES)
    this.#options.onDamaged(image.name, page, Math.ceil((offset + sizeBytes) / PAGE_BYTES) - page, code)
  }

  onRoom(): void {
    this.#options.onRoom()
  }

  /** Ends everything that waits with an error. Nothing is written to the transport after that. */
  close(): void {
    this.#isClosed = true
    this.#requests.close()
  }

  onBroken(error: unknown): void {
    this.#options.onBroken(error)
  }

  /** Something was thrown: ends all, the request that was handled last among them. */
  endBroken(): void {
    this.answers.sendError(this, ERRNO.EIO)
    this.close()
  }

  /** Handles what was put into `request`. */
  handle(sizeBytes: number): void {
    const words = this.#words
    this.low = words[fuse.HEADER.unique]!
    this.high = words[fuse.HEADER.unique + 1]!
    const file = this.#tree.file(get64(words, fuse.HEADER.node))
    const opcode = words[fuse.HEADER.opcode]!
    const errno =
      opcode === OPCODE.read
        ? this.#read(file)
        : opcode === OPCODE.write
          ? this.#write(file, sizeBytes)
          : this.#handleRare(opcode, file, sizeBytes)
    if (errno !== ANSWERED) this.answers.sendError(this, errno)
  }

  #handleRare(opcode: number, file: FileNode | undefined, sizeBytes: number): number {
    switch (opcode) {
      // These three have no answer, and there is nothing to forget.
      case OPCODE.forget:
      case OPCODE.batchForget:
        return ANSWERED
      case OPCODE.interrupt:
        this.#requests.interrupt(get64(this.#words, fuse.INTERRUPT_IN.unique))
        return ANSWERED
      case OPCODE.init:
        return this.#init()
      case OPCODE.lookup:
        return this.#lookup(sizeBytes)
      case OPCODE.getattr:
        return this.#sendAttributes(file)
      case OPCODE.setattr:
        return this.#setattr(file)
      case OPCODE.open:
        return this.#open(file)
      case OPCODE.opendir:
        return this.#sendOpened(fuse.OPENED.keepCache | fuse.OPENED.cacheDirectory)
      case OPCODE.readdir:
        return this.#readdir()
      case OPCODE.lseek:
        return this.#lseek(file)
      case OPCODE.fallocate:
        return this.#fallocate(file)
      case OPCODE.statfs:
        this.#tree.encodeFileSystem(this.answers.clear(fuse.STATFS_OUT_BYTES))
        return this.#send(fuse.STATFS_OUT_BYTES)
      // The kernel tells each writer once; whoever asks later, or again, is not to believe that all is well.
      case OPCODE.fsync:
        return file?.image.isDamaged ? ERRNO.EIO : 0
      case OPCODE.release:
        if (file !== undefined && this.#isForWriting(fuse.RELEASE_IN.flags)) file.writers--
        return 0
      case OPCODE.releasedir:
      case OPCODE.flush:
      case OPCODE.fsyncdir:
      case OPCODE.destroy:
        return 0
      default:
        return CHANGES_OF_THE_FOLDER.has(opcode) ? ERRNO.EPERM : ERRNO.ENOSYS
    }
  }

  /** Answers with the first bytes of the body. */
  #send(sizeBytes: number): number {
    this.answers.sendBody(this, sizeBytes)
    return ANSWERED
  }

  #read(file: FileNode | undefined): number {
    const words = this.#words
    if (file === undefined) return ERRNO.EISDIR
    const { image } = file
    const offset = get64(words, fuse.TRANSFER_IN.offset)
    const asked = words[fuse.TRANSFER_IN.size]!
    const sizeBytes = Math.min(asked, image.sizeBytes - offset)
    // Beyond the end there is nothing: the kernel rounds up to pages.
    if (sizeBytes <= 0) return 0
    if (sizeBytes > TRANSFER_BYTES_MAX) return ERRNO.EINVAL
    const request = this.#requests.begin(this.low, this.high, words[fuse.HEADER.pid]!, file)
    request.offset = offset
    image.read(offset, sizeBytes, request)
    this.#requests.park(request)
    return ANSWERED
  }

  #write(file: FileNode | undefined, received: number): number {
    const words = this.#words
    if (file === undefined) return ERRNO.EISDIR
    const { image } = file
    const offset = get64(words, fuse.TRANSFER_IN.offset)
    const asked = words[fuse.TRANSFER_IN.size]!
    // A write that passes the end is done up to there; one that begins there would make the file longer.
    const sizeBytes = Math.min(asked, image.sizeBytes - offset)
    const isWriteBack = (words[fuse.WRITE_IN.flags]! & fuse.WRITE_CACHE) !== 0
    if (!file.isWritable) return ERRNO.EROFS
    // Of a short write the kernel keeps all but the last page.
    if (sizeBytes < asked && !isWriteBack) file.forgotten.add(Math.max(offset, (image.pageCount - 1) * PAGE_BYTES), 1)
    if (sizeBytes <= 0) return ERRNO.EFBIG
    if (asked > TRANSFER_BYTES_MAX || received < fuse.WRITE_BYTES_AT + asked) return ERRNO.EINVAL
    file.mtimeMs = Date.now()
    if (isWriteBack && file.forgotten.hasAnyOf(offset, sizeBytes)) {
      this.onLost(file, offset, sizeBytes, 'CORRUPT')
      return ERRNO.EIO
    }
    const request = this.#requests.begin(this.low, this.high, words[fuse.HEADER.pid]!, file)
    request.answer = 'size'
    request.offset = offset
    request.sizeBytes = sizeBytes
    request.isWriteBack = isWriteBack
    image.write(offset, this.request.subarray(fuse.WRITE_BYTES_AT, fuse.WRITE_BYTES_AT + sizeBytes), request)
    this.#requests.park(request)
    return ANSWERED
  }

  #init(): number {
    const words = this.#words
    const minor = words[fuse.INIT_IN.minor]!
    const major = words[fuse.INIT_IN.major]!
    if (major < fuse.FUSE_MAJOR || (major === fuse.FUSE_MAJOR && minor < fuse.FUSE_MINOR_MIN)) return fuse.EPROTO
    const out = this.answers.clear(fuse.INIT_OUT_BYTES)
    out[fuse.INIT_OUT.major] = fuse.FUSE_MAJOR
    out[fuse.INIT_OUT.minor] = fuse.FUSE_MINOR
    out[fuse.INIT_OUT.maxReadAhead] = Math.min(this.#options.readAheadBytes, words[fuse.INIT_IN.maxReadAhead]!)
    out[fuse.INIT_OUT.flags] = words[fuse.INIT_IN.flags]! & FEATURES
    out[fuse.INIT_OUT.background] = BACKGROUND_MAX | (CONGESTED << 16)
    out[fuse.INIT_OUT.maxWrite] = TRANSFER_BYTES_MAX
    out[fuse.INIT_OUT.timeGranularity] = 1
    out[fuse.INIT_OUT.maxPages] = TRANSFER_BYTES_MAX / PAGE_BYTES
    return this.#send(fuse.INIT_OUT_BYTES)
  }

  #lookup(received: number): number {
    // It ends with a zero byte.
    const name = this.request.toString('latin1', fuse.HEADER_BYTES, received - 1)
    const isFolder = get64(this.#words, fuse.HEADER.node) === fuse.ROOT_NODE
    this.#tree.encodeEntry(this.answers.clear(fuse.ENTRY_OUT_BYTES), isFolder ? this.#tree.named(name) : undefined)
    return this.#send(fuse.ENTRY_OUT_BYTES)
  }

  #sendAttributes(file: FileNode | undefined): number {
    this.#tree.encodeAttributes(this.answers.clear(fuse.ATTR_OUT_BYTES), file)
    return this.#send(fuse.ATTR_OUT_BYTES)
  }

  #sendOpened(flags: number): number {
    this.answers.clear(fuse.OPEN_OUT_BYTES)[fuse.OPEN_OUT.flags] = flags
    return this.#send(fuse.OPEN_OUT_BYTES)
  }

  #open(file: FileNode | undefined): number {
    if (file === undefined) return ERRNO.EISDIR
    const isForWriting = this.#isForWriting(fuse.OPEN_IN.flags)
    if (isForWriting && !file.isWritable) return ERRNO.EROFS
    if (isForWriting) file.writers++
    this.#options.onOpened(this.#words[fuse.HEADER.pid]!)
    return this.#sendOpened(fuse.OPENED.keepCache)
  }

  #isForWriting(word: number): boolean {
    return (this.#words[word]! & fuse.ACCESS_MODE) !== fuse.READ_ONLY
  }

  #readdir(): number {
    const first = get64(this.#words, fuse.TRANSFER_IN.offset)
    const sizeMax = Math.min(this.#words[fuse.TRANSFER_IN.size]!, BODY_BYTES)
    const sizeBytes = this.#tree.encodeEntries(this.answers.clear(BODY_BYTES), this.answers.body, first, sizeMax)
    return this.#send(sizeBytes)
  }

  /** Sizes do not change, nor whose a file is: setting them to what they are is no error (QEMU sets the size of what it opens). Times of writable files can be set. */
  #setattr(file: FileNode | undefined): number {
    if (file === undefined || !file.isWritable) return ERRNO.EPERM
    const errno = this.#refusalOf(file)
    if (errno !== 0) return errno
    const valid = this.#words[fuse.SETATTR_IN.valid]!
    if ((valid & fuse.SET.mtimeNow) !== 0) file.mtimeMs = Date.now()
    else if ((valid & fuse.SET.mtime) !== 0) {
      const seconds = get64(this.#words, fuse.SETATTR_IN.mtime)
      file.mtimeMs = seconds * 1000 + Math.floor(this.#words[fuse.SETATTR_IN.mtimeNanoseconds]! / 1e6)
    }
    return this.#sendAttributes(file)
  }

  #refusalOf(file: FileNode): number {
    const words = this.#words
    const valid = words[fuse.SETATTR_IN.valid]!
    const sets = (bit: number, is: number, wanted: number): boolean => (valid & bit) !== 0 && is !== wanted
    const sizeBytes = get64(words, fuse.SETATTR_IN.size)
    if (sets(fuse.SET.size, file.image.sizeBytes, sizeBytes)) return sizeBytes > file.image.sizeBytes ? ERRNO.EFBIG : ERRNO.EPERM
    const mode = words[fuse.SETATTR_IN.mode]! & fuse.PERMISSION_BITS
    const isOther =
      sets(fuse.SET.mode, this.#tree.modeOf(file), mode) ||
      sets(fuse.SET.uid, this.#tree.uid, words[fuse.SETATTR_IN.uid]!) ||
      sets(fuse.SET.gid, this.#tree.gid, words[fuse.SETATTR_IN.gid]!)
    return isOther ? ERRNO.EPERM : 0
  }

  #lseek(file: FileNode | undefined): number {
    const whence = this.#words[fuse.LSEEK_IN.whence]!
    if (file === undefined || (whence !== fuse.WHENCE.data && whence !== fuse.WHENCE.hole)) return ERRNO.EINVAL
    const { low, high } = this
    const offset = get64(this.#words, fuse.LSEEK_IN.offset)
    if (file.image.isWritable) return this.#seekInData(file.image, offset, whence)
    this.#goOn({ low, high }, new Seek(file.image, offset, whence === fuse.WHENCE.hole))
    return ANSWERED
  }

  /** Where the kernel may have pages that were written to and not sent, no hole is told: whoever copies would pass over them. */
  #seekInData({ sizeBytes }: ServedImage, offset: number, whence: number): number {
    if (offset >= sizeBytes) return ERRNO.ENXIO
    put64(this.answers.clear(fuse.LSEEK_OUT_BYTES), 0, whence === fuse.WHENCE.hole ? sizeBytes : offset)
    return this.#send(fuse.LSEEK_OUT_BYTES)
  }

  /** A seek over a large image is done in turns: others must not wait for it. */
  #goOn(to: Unique, seek: Seek): void {
    if (this.#isClosed) return
    if (!seek.step()) this.loop.after(0, () => this.#goOn(to, seek))
    else if (seek.found === undefined) this.answers.sendError(to, ERRNO.ENXIO)
    else {
      put64(this.answers.clear(fuse.LSEEK_OUT_BYTES), 0, seek.found)
      this.answers.sendBody(to, fuse.LSEEK_OUT_BYTES)
    }
  }

  #fallocate(file: FileNode | undefined): number {
    const words = this.#words
    const { keepSize, punchHole, zeroRange } = fuse.FALLOCATE
    const mode = words[fuse.FALLOCATE_IN.mode]!
    const isZeroing = mode === (punchHole | keepSize) || (mode & ~keepSize) === zeroRange
    if (file === undefined || !isZeroing) return ERRNO.EOPNOTSUPP
    const { image } = file
    if (!file.isWritable) return ERRNO.EROFS
    const offset = get64(words, fuse.FALLOCATE_IN.offset)
    const length = get64(words, fuse.FALLOCATE_IN.length)
    if ((mode & keepSize) === 0 && offset + length > image.sizeBytes) return ERRNO.EFBIG
    const sizeBytes = Math.min(length, image.sizeBytes - offset)
    if (sizeBytes <= 0) return 0
    file.mtimeMs = Date.now()
    const request = this.#requests.begin(this.low, this.high, words[fuse.HEADER.pid]!, file)
    request.answer = 'empty'
    request.offset = offset
    request.sizeBytes = sizeBytes
    image.zero(offset, sizeBytes, request)
    this.#requests.park(request)
    return ANSWERED
  }
}

/** The folder is as it is. Not ENOSYS: for some of these the kernel would try another. */
const CHANGES_OF_THE_FOLDER: ReadonlySet<number> = new Set([
  OPCODE.symlink,
  OPCODE.mknod,
  OPCODE.mkdir,
  OPCODE.unlink,
  OPCODE.rmdir,
  OPCODE.rename,
  OPCODE.link,
  OPCODE.create,
  OPCODE.rename2,
  OPCODE.tmpfile,
])
