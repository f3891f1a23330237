/**
 * Messages with descriptors (SCM_RIGHTS) over a Unix socket. Over one that keeps their boundaries
 * (SOCK_SEQPACKET) a message is what was sent; over a stream it is a piece of what comes.
 *
 * One object holds the structures of one message, used again for the next: not for two threads at once.
 * Descriptors that are received are close-on-exec and the caller's. The kernel closes those for which
 * there is no room, and the message says that there were some.
 *
 * Who sends a descriptor may mean ill. A socket that lingers makes the thread wait that closes it last,
 * for as long as its sender likes. So those that are received are told not to, and a socket is not closed
 * with messages unread: the kernel would close their descriptors on this thread.
 */
import { ERRNO, type Native } from './native.ts'

/** The most descriptors that the kernel passes with one message (SCM_MAX_FD). */
export const DESCRIPTORS_MAX = 253

/** struct msghdr (<sys/socket.h>) on 64 bits: where its members lie. */
const MESSAGE_BYTES = 56
const VECTOR = 16
const VECTOR_COUNT = 24
const CONTROL = 32
const CONTROL_BYTES = 40
const FLAGS = 48
/** struct cmsghdr: length u64, level i32, type i32; then what it holds. The next begins at a multiple of 8. */
const HEADER_BYTES = 16
const LEVEL = 8
const TYPE = 12
const FD_BYTES = 4
const ALIGNMENT = 8
const SOL_SOCKET = 1
const SCM_RIGHTS = 1
const SO_LINGER = 13
/** An int, or struct linger (<sys/socket.h>). */
const OFF: Buffer = Buffer.alloc(8)
/** Linux 6.16. */
const SO_PASSRIGHTS = 83
const INT_BYTES = 4
const SHUT_RDWR = 2

const MSG_CTRUNC = 0x8
const MSG_DONTWAIT = 0x40
const MSG_NOSIGNAL = 0x4000
const MSG_CMSG_CLOEXEC = 0x4000_0000

export interface ReceivedMessage {
  /** A view, good until the next message. Empty: the other end is closed. */
  readonly bytes: Buffer
  readonly fds: readonly number[]
  /** Descriptors were sent for which there was no room: in a message, or in this process. */
  readonly lostFds: boolean
}

export interface MessageLimits {
  /** Of one message, or piece. */
  readonly bytesMax: number
  /** Of one message that is received; default 1. */
  readonly fdsMax?: number
}

export class DescriptorMessages {
  readonly #native: Native
  readonly #socket: number
  readonly #bytes: Buffer
  readonly #message = own(MESSAGE_BYTES)
  readonly #vector = own(16)
  readonly #control: Buffer

  /** The socket stays the caller's. */
  constructor(native: Native, socket: number, { bytesMax, fdsMax = 1 }: MessageLimits) {
    this.#native = native
    this.#socket = socket
    this.#bytes = own(bytesMax)
    this.#control = own(HEADER_BYTES + fdsMax * FD_BYTES)
    this.#vector.writeBigUInt64LE(BigInt(native.addressOf(this.#bytes)), 0)
  }

  /** Does not wait, and takes a copy. @returns 0, or the errno: EAGAIN if the other end has not read what was sent before. @throws RangeError for too long a message */
  send(bytes: Uint8Array, fd?: number): number {
    if (bytes.length > this.#bytes.length)
      throw new RangeError(`a message of ${bytes.length} bytes, where ${this.#bytes.length} are allowed`)
    this.#bytes.set(bytes)
    this.#prepare(bytes.length, fd === undefined ? 0 : HEADER_BYTES + FD_BYTES)
    this.#control.writeBigUInt64LE(BigInt(HEADER_BYTES + FD_BYTES), 0)
    this.#control.writeInt32LE(SOL_SOCKET, LEVEL)
    this.#control.writeInt32LE(SCM_RIGHTS, TYPE)
    this.#control.writeInt32LE(fd ?? -1, HEADER_BYTES)
    const sent = this.#untilUninterrupted(() => this.#native.sendmsg(this.#socket, this.#message, MSG_DONTWAIT | MSG_NOSIGNAL))
    return sent < 0 ? this.#native.errno() : 0
  }

  /** Waits for the next message. @returns it, or the errno */
  receive(): ReceivedMessage | number {
    return this.#receive(0)
  }

  /** Does not wait. @returns the next message, or the errno: EAGAIN if there is none */
  tryReceive(): ReceivedMessage | number {
    return this.#receive(MSG_DONTWAIT)
  }

  #receive(flags: number): ReceivedMessage | number {
    this.#prepare(this.#bytes.length, this.#control.length)
    const received = this.#untilUninterrupted(() => this.#native.recvmsg(this.#socket, this.#message, flags | MSG_CMSG_CLOEXEC))
    if (received < 0) return this.#native.errno()
    const lostFds = (this.#message.readInt32LE(FLAGS) & MSG_CTRUNC) !== 0
    return { bytes: this.#bytes.subarray(0, received), fds: this.#receivedFds(), lostFds }
  }

  /** Of all control messages. */
  #receivedFds(): number[] {
    const fds: number[] = []
    const control = this.#control
    const end = Number(this.#message.readBigUInt64LE(CONTROL_BYTES))
    for (let at = 0; at + HEADER_BYTES <= end; ) {
      const length = Number(control.readBigUInt64LE(at))
      if (length < HEADER_BYTES) break
      const isRights = control.readInt32LE(at + LEVEL) === SOL_SOCKET && control.readInt32LE(at + TYPE) === SCM_RIGHTS
      const until = isRights ? Math.min(at + length, end) : 0
      for (let fd = at + HEADER_BYTES; fd + FD_BYTES <= until; fd += FD_BYTES) fds.push(this.#tamed(control.readInt32LE(fd)))
      at += Math.ceil(length / ALIGNMENT) * ALIGNMENT
    }
    return fds
  }

  /** What is no socket does not mind. */
  #tamed(fd: number): number {
    this.#native.setsockopt(fd, SOL_SOCKET, SO_LINGER, OFF, OFF.length)
    return fd
  }

  /** Before the socket is closed: ends the connection, and closes what came and was not received. */
  end(): void {
    this.#native.shutdown(this.#socket, SHUT_RDWR)
    for (let message = this.tryReceive(); typeof message === 'object' && message.bytes.length > 0; message = this.tryReceive())
      for (const fd of message.fds) this.#native.close(fd)
  }

  #prepare(sizeBytes: number, controlBytes: number): void {
    const { addressOf } = this.#native
    this.#message.fill(0)
    this.#vector.writeBigUInt64LE(BigInt(sizeBytes), 8)
    this.#message.writeBigUInt64LE(BigInt(addressOf(this.#vector)), VECTOR)
    this.#message.writeBigUInt64LE(1n, VECTOR_COUNT)
    if (controlBytes > 0) this.#message.writeBigUInt64LE(BigInt(addressOf(this.#control)), CONTROL)
    this.#message.writeBigUInt64LE(BigInt(controlBytes), CONTROL_BYTES)
  }

  #untilUninterrupted(call: () => number): number {
    for (;;) {
      const result = Number(call())
      if (result >= 0 || this.#native.errno() !== ERRNO.EINTR) return result
    }
  }
}

/** Has the kernel refuse descriptors at a socket, and at those that will be accepted at it. Before Linux 6.16 it cannot. */
export function refuseDescriptors(native: Native, socket: number): void {
  native.setsockopt(socket, SOL_SOCKET, SO_PASSRIGHTS, OFF, INT_BYTES)
}

/** On memory of its own, which does not move: its address lies in structures. */
function own(sizeBytes: number): Buffer {
  return Buffer.from(new ArrayBuffer(sizeBytes))
}
