/**
 * Messages with at most one descriptor (SCM_RIGHTS) over a Unix socket that keeps their boundaries (SOCK_SEQPACKET).
 *
 * One object holds the structures of one message, used again for the next: not for two threads at once. A descriptor that is received is close-on-exec and the caller's;
 * surplus ones are closed by the kernel.
 */
import { ERRNO, type Native } from './native.ts'

/** struct msghdr (<sys/socket.h>) on 64 bits: where its members lie. */
const MESSAGE_BYTES = 56
const VECTOR = 16
const VECTOR_COUNT = 24
const CONTROL = 32
const CONTROL_BYTES = 40
/** struct cmsghdr with one descriptor: length u64, level i32, type i32, descriptor i32. */
const RIGHTS_BYTES = 20
const SOL_SOCKET = 1
const SCM_RIGHTS = 1

const MSG_DONTWAIT = 0x40
const MSG_NOSIGNAL = 0x4000
const MSG_CMSG_CLOEXEC = 0x4000_0000

export interface ReceivedMessage {
  /** A view, good until the next message. */
  readonly bytes: Uint8Array
  readonly fd: number | undefined
}

export class DescriptorMessages {
  readonly #native: Native
  readonly #socket: number
  readonly #bytes: Buffer
  readonly #header = Buffer.alloc(MESSAGE_BYTES)
  readonly #vector = Buffer.alloc(16)
  readonly #rights = Buffer.alloc(24)

  /** The socket stays the caller's. @param bytesMax of one message */
  constructor(native: Native, socket: number, bytesMax: number) {
    this.#native = native
    this.#socket = socket
    this.#bytes = Buffer.alloc(bytesMax)
    this.#vector.writeBigUInt64LE(BigInt(native.addressOf(this.#bytes)), 0)
    this.#header.writeBigUInt64LE(BigInt(native.addressOf(this.#vector)), VECTOR)
    this.#header.writeBigUInt64LE(1n, VECTOR_COUNT)
  }

  /** Does not wait, and takes a copy. @returns 0, or the errno: EAGAIN if the other end has not read what was sent before. @throws RangeError for too long a message */
  send(bytes: Uint8Array, fd?: number): number {
    if (bytes.length > this.#bytes.length)
      throw new RangeError(`a message of ${bytes.length} bytes, where ${this.#bytes.length} are allowed`)
    this.#bytes.set(bytes)
    this.#prepare(bytes.length, fd)
    const sent = this.#untilUninterrupted(() => this.#native.sendmsg(this.#socket, this.#header, MSG_DONTWAIT | MSG_NOSIGNAL))
    return sent < 0 ? this.#native.errno() : 0
  }

  /** Waits for the next message. @returns undefined if the other end is closed, or the errno */
  receive(): ReceivedMessage | number | undefined {
    this.#prepare(this.#bytes.length, -1)
    const received = this.#untilUninterrupted(() => this.#native.recvmsg(this.#socket, this.#header, MSG_CMSG_CLOEXEC))
    if (received < 0) return this.#native.errno()
    if (received === 0) return undefined
    const hasRights = this.#header.readBigUInt64LE(CONTROL_BYTES) >= BigInt(RIGHTS_BYTES) && this.#rights.readInt32LE(12) === SCM_RIGHTS
    return { bytes: this.#bytes.subarray(0, received), fd: hasRights ? this.#rights.readInt32LE(16) : undefined }
  }

  #prepare(sizeBytes: number, fd: number | undefined): void {
    this.#vector.writeBigUInt64LE(BigInt(sizeBytes), 8)
    this.#rights.writeBigUInt64LE(BigInt(RIGHTS_BYTES), 0)
    this.#rights.writeInt32LE(SOL_SOCKET, 8)
    this.#rights.writeInt32LE(SCM_RIGHTS, 12)
    this.#rights.writeInt32LE(fd ?? -1, 16)
    const address = fd === undefined ? 0 : this.#native.addressOf(this.#rights)
    this.#header.writeBigUInt64LE(BigInt(address), CONTROL)
    this.#header.writeBigUInt64LE(BigInt(fd === undefined ? 0 : RIGHTS_BYTES), CONTROL_BYTES)
  }

  #untilUninterrupted(call: () => number): number {
    for (;;) {
      const result = Number(call())
      if (result >= 0 || this.#native.errno() !== ERRNO.EINTR) return result
    }
  }
}
