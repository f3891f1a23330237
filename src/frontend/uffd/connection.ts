/**
 * A client that has connected and has not been taken yet: collects its message and the descriptors that come with it, in however many pieces, up to a deadline.
 *
 * Whoever handed over a userfaultfd and is turned away is killed: its guest waits for pages that nobody will bring. Others are left alone, their connection closed.
 */
import { isThawError } from '../../errors.ts'
import type { FaultContext, Watched } from '../../pager.ts'
import { ERRNO, type Native } from '../../util/native.ts'
import { killErrno, killProcess, type PeerProcess } from '../../util/pidfd.ts'
import { MESSAGE_BYTES_MAX, parseHandshake } from './handshake.ts'
import { mayBeUserfaultfd, objectionTo } from './kernel.ts'
import type { RegionLayout } from './regions.ts'
import type { TakenVmm } from './vmm.ts'

export interface ConnectionOptions {
  readonly context: FaultContext
  /** The descriptors of both are of `context.descriptors`, and the connection's. */
  readonly socket: number
  readonly peer: PeerProcess
  readonly imagePages: number
  readonly timeoutMs: number
  /** Why nobody can be taken; undefined if somebody can. */
  objection(): string | undefined
  /** The handshake is complete; the descriptors, of `context.descriptors`, are the callee's. */
  onTaken(taken: TakenVmm): void
  onRefused(reason: string, killed: boolean): void
}

/** The most that the kernel passes with one message (SCM_MAX_FD), and its header. */
const CONTROL_BYTES = 16 + 253 * 4 + 4
const PIECES_MAX = 64
/** What one read can take. */
const PIECE_BYTES = 16 * 1024
/** <sys/socket.h> */
const MSG_CTRUNC = 0x8
const MSG_DONTWAIT = 0x40
const MSG_CMSG_CLOEXEC = 0x4000_0000
const SOL_SOCKET = 1
const SCM_RIGHTS = 1

export class Connection implements Watched {
  readonly #options: ConnectionOptions
  readonly #native: Native
  readonly #message = new MessageBuffer()
  readonly #cancelDeadline: () => void
  #received = Buffer.alloc(0)
  #pieces = 0
  /** The first descriptor that came. */
  #descriptor = -1
  /** Descriptors came that there was no room for. */
  #lostDescriptors = false
  #isOver = false

  constructor(options: ConnectionOptions) {
    this.#options = options
    const { context, socket, timeoutMs } = options
    this.#native = context.native
    context.loop.watch(socket, this)
    this.#cancelDeadline = context.loop.after(timeoutMs, () => this.refuse(`no handshake within ${timeoutMs} ms`))
  }

  serve(): boolean {
    if (this.#isOver) return false
    const { vector, header } = this.#message
    const size = this.#message.receive(this.#native, this.#options.socket)
    if (size < 0) {
      const errno = this.#native.errno()
      if (errno === ERRNO.EAGAIN || errno === ERRNO.EINTR) return false
      this.refuse(`it cannot be heard: errno ${errno}`)
      return true
    }
    this.#takeDescriptors(header)
    if (size === 0) this.refuse('it hung up before its handshake was complete')
    else this.#takePiece(vector.subarray(0, size))
    return true
  }

  onBroken(error: unknown): void {
    this.refuse(`a bug: ${error instanceof Error ? error.stack : String(error)}`)
  }

  /** Keeps the first descriptor, closes the others. */
  #takeDescriptors(header: Buffer): void {
    if ((this.#message.flags & MSG_CTRUNC) !== 0) this.#lostDescriptors = true
    for (const fd of this.#message.descriptors(header)) {
      if (this.#descriptor < 0) this.#descriptor = this.#options.context.descriptors.own(fd)
      else this.#native.close(fd)
    }
  }

  #takePiece(piece: Buffer): void {
    this.#received = Buffer.concat([this.#received, piece])
    this.#pieces++
    const text = this.#received.toString('utf8').trim()
    if (this.#received.length > MESSAGE_BYTES_MAX) this.refuse(`its handshake is longer than ${MESSAGE_BYTES_MAX} bytes`)
    else if (this.#pieces > PIECES_MAX) this.refuse(`its handshake comes in more than ${PIECES_MAX} pieces`)
    else if (!text.startsWith('[') && text !== '') this.refuse('its handshake is not an array of regions')
    else if (text.endsWith(']')) this.#tryComplete(text)
  }

  #tryComplete(text: string): void {
    let layouts: RegionLayout[]
    try {
      layouts = parseHandshake(text, this.#options.imagePages)
    } catch (error) {
      if (!isThawError(error)) throw error
      // Not JSON yet: a field of a region may end with a bracket where a piece does.
      if (!(error.cause instanceof SyntaxError)) this.refuse(error.message)
      return
    }
    const objection = this.#objection()
    if (objection === undefined) this.#handOver(layouts)
    else this.refuse(objection)
  }

  /** Why it cannot be served, whatever its regions are. */
  #objection(): string | undefined {
    if (this.#lostDescriptors) return 'there was no room for its descriptor: raise the limit of open files'
    if (this.#descriptor < 0) return 'its handshake came without a descriptor'
    return this.#options.objection() ?? objectionTo(this.#descriptor) ?? this.#killObjection()
  }

  #handOver(layouts: readonly RegionLayout[]): void {
    const { context, peer, socket, onTaken } = this.#options
    this.#end()
    context.loop.unwatch(socket)
    onTaken({ peer, socket, userfaultfd: this.#descriptor, layouts })
  }

  /** A VMM that could not be killed could come to hang. */
  #killObjection(): string | undefined {
    const errno = killErrno(this.#native, this.#options.peer.pidfd)
    if (errno === 0) return undefined
    return errno === ERRNO.ESRCH ? 'it is gone' : 'this process may not kill it: serve as root, or as the user of the VMM'
  }

  /** Turns it away. Idempotent. */
  refuse(reason: string): void {
    if (this.#isOver) return
    this.#end()
    const { context, socket, peer, onRefused } = this.#options
    context.loop.unwatch(socket)
    const killed = this.#lostDescriptors || (this.#descriptor >= 0 && mayBeUserfaultfd(this.#descriptor))
    if (killed) this.#tryKill()
    for (const fd of [this.#descriptor, socket, peer.pidfd]) if (fd >= 0) context.descriptors.close(fd)
    onRefused(reason, killed)
  }

  #tryKill(): void {
    try {
      killProcess(this.#native, this.#options.peer.pidfd)
    } catch (error) {
      // Another user's: it is told of as refused, and more cannot be done.
      if (!isThawError(error)) throw error
    }
  }

  #end(): void {
    this.#isOver = true
    this.#cancelDeadline()
  }
}

/** struct msghdr (<sys/socket.h>) with a buffer for bytes and one for descriptors. One a connection: addresses of buffers are in it. */
class MessageBuffer {
  readonly vector: Buffer = own(PIECE_BYTES)
  readonly header: Buffer = own(CONTROL_BYTES)
  readonly #iovec = own(16)
  readonly #message = own(56)

  /** recvmsg(2): bytes, 0 at the end, -1. */
  receive(native: Native, socket: number): number {
    this.#iovec.writeBigUInt64LE(BigInt(native.addressOf(this.vector)), 0)
    this.#iovec.writeBigUInt64LE(BigInt(this.vector.length), 8)
    this.#message.fill(0)
    this.#message.writeBigUInt64LE(BigInt(native.addressOf(this.#iovec)), 16)
    this.#message.writeBigUInt64LE(1n, 24)
    this.#message.writeBigUInt64LE(BigInt(native.addressOf(this.header)), 32)
    this.#message.writeBigUInt64LE(BigInt(this.header.length), 40)
    return native.recvmsg(socket, this.#message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC)
  }

  get flags(): number {
    return this.#message.readInt32LE(48)
  }

  /** The descriptors that came, of all control messages: each is length u64, level i32, type i32, content, padded to 8. */
  descriptors(header: Buffer): number[] {
    const found: number[] = []
    const end = Number(this.#message.readBigUInt64LE(40))
    for (let at = 0; at + 16 <= end; ) {
      const length = Number(header.readBigUInt64LE(at))
      if (length < 16) break
      const isRights = header.readInt32LE(at + 8) === SOL_SOCKET && header.readInt32LE(at + 12) === SCM_RIGHTS
      for (let fd = at + 16; isRights && fd + 4 <= Math.min(at + length, end); fd += 4) found.push(header.readInt32LE(fd))
      at += Math.ceil(length / 8) * 8
    }
    return found
  }
}

/** On memory of its own, which does not move. */
function own(sizeBytes: number): Buffer {
  return Buffer.from(new ArrayBuffer(sizeBytes))
}
