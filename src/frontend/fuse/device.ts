/**
 * The descriptor of a mount, and answers as they are written to it. One read gives one request, one write is one answer. Nothing here waits.
 *
 * An answer that the kernel does not take is an error for whoever waits, never silence: ENOENT alone means that nobody waits any more.
 */
import type { Gathered } from '../../pager.ts'
import { ERRNO, type Native } from '../../util/native.ts'
import { REPLY_HEADER, REPLY_HEADER_BYTES } from './protocol.ts'

/** Largest answer that is put together here: a page of directory entries. Bytes of images are not: they go out from where they lie. */
export const BODY_BYTES = 4096

/** `receive` got nothing: there is no request, or the mount is gone. */
export const NOTHING = 0
export const UNMOUNTED = -1

/** How requests come and answers go. */
export interface Transport {
  /** @returns bytes of a request, or NOTHING, or UNMOUNTED */
  receive(request: Uint8Array): number
  /** Whether `receive` would say UNMOUNTED; takes no request. */
  isUnmounted(): boolean
  /** @returns errno, or 0 */
  write(answer: Uint8Array, sizeBytes: number): number
  /** `header` always is the same memory. @returns errno, or 0 */
  writeGathered(header: Uint8Array, bytes: Gathered): number
}

/** Of <poll.h>: struct pollfd, and the event that is always told. The kernel sets it for a connection that has ended. */
const POLLFD_BYTES = 8
const POLLFD_REVENTS = 6
const POLLERR = 8

/** On a descriptor that is non-blocking. */
export class NativeTransport implements Transport {
  readonly #native: Native
  readonly #fd: number
  readonly #pollFd = Buffer.alloc(POLLFD_BYTES)
  /** Where the header lies; found out once. */
  #headerAddress = 0

  constructor(native: Native, fd: number) {
    this.#native = native
    this.#fd = fd
  }

  receive(request: Uint8Array): number {
    for (;;) {
      const sizeBytes = this.#native.read(this.#fd, request, request.length)
      if (sizeBytes >= 0) return sizeBytes
      const errno = this.#native.errno()
      if (errno === ERRNO.EAGAIN) return NOTHING
      if (!isPassing(errno)) return UNMOUNTED
    }
  }

  isUnmounted(): boolean {
    this.#pollFd.writeInt32LE(this.#fd, 0)
    return this.#native.poll(this.#pollFd, 1, 0) > 0 && (this.#pollFd.readUInt16LE(POLLFD_REVENTS) & POLLERR) !== 0
  }

  write(answer: Uint8Array, sizeBytes: number): number {
    return this.#native.write(this.#fd, answer, sizeBytes) < 0 ? this.#native.errno() : 0
  }

  writeGathered(header: Uint8Array, bytes: Gathered): number {
    this.#headerAddress ||= this.#native.addressOf(header)
    bytes.setHeader(this.#headerAddress, REPLY_HEADER_BYTES)
    return this.#native.writev(this.#fd, bytes.vectors, bytes.vectorCount) < 0 ? this.#native.errno() : 0
  }
}

/** Whether a read that failed is to be tried again. ENOENT: who asked has been killed meanwhile. EIO: it did not fit, and was answered by the kernel. */
function isPassing(errno: number): boolean {
  return errno === ERRNO.EINTR || errno === ERRNO.ENOENT || errno === ERRNO.EIO
}

/** Who is answered: a request's number, as two words. */
export interface Unique {
  readonly low: number
  readonly high: number
}

export class Answers {
  /** What an answer says behind its header; zeros before it is written to. The same memory twice. */
  readonly body: Uint8Array
  readonly words: Uint32Array
  readonly #transport: Transport
  readonly #answer = Buffer.from(new ArrayBuffer(REPLY_HEADER_BYTES + BODY_BYTES))
  readonly #answerWords = new Uint32Array(this.#answer.buffer)
  /** Of answers whose bytes lie elsewhere. */
  readonly #header = Buffer.from(new ArrayBuffer(REPLY_HEADER_BYTES))
  readonly #headerWords = new Uint32Array(this.#header.buffer)

  constructor(transport: Transport) {
    this.#transport = transport
    this.body = this.#answer.subarray(REPLY_HEADER_BYTES)
    this.words = this.#answerWords.subarray(REPLY_HEADER_BYTES / 4)
  }

  /** Empties the body, to be filled for `sendBody`. */
  clear(sizeBytes: number): Uint32Array {
    return this.words.fill(0, 0, sizeBytes / 4)
  }

  sendBody(to: Unique, sizeBytes: number): void {
    const length = REPLY_HEADER_BYTES + sizeBytes
    setHeader(this.#answerWords, to, length, 0)
    this.#heed(to, this.#transport.write(this.#answer, length))
  }

  /** @param errno 0: it was done, and there is nothing to say */
  sendError(to: Unique, errno: number): void {
    setHeader(this.#headerWords, to, REPLY_HEADER_BYTES, -errno)
    this.#transport.write(this.#header, REPLY_HEADER_BYTES)
  }

  sendGathered(to: Unique, bytes: Gathered): void {
    setHeader(this.#headerWords, to, REPLY_HEADER_BYTES + bytes.sizeBytes, 0)
    this.#heed(to, this.#transport.writeGathered(this.#header, bytes))
  }

  #heed(to: Unique, errno: number): void {
    if (errno !== 0 && errno !== ERRNO.ENOENT) this.sendError(to, ERRNO.EIO)
  }
}

function setHeader(words: Uint32Array, { low, high }: Unique, length: number, error: number): void {
  words[REPLY_HEADER.length] = length
  words[REPLY_HEADER.error] = error
  words[REPLY_HEADER.unique] = low
  words[REPLY_HEADER.unique + 1] = high
}
