/**
 * A client that has connected and has not been taken yet: collects its message and the descriptors that come with it, in however many pieces, up to a deadline.
 *
 * Whoever handed over a userfaultfd and is turned away is killed: its guest waits for pages that nobody will bring. Others are left alone, their connection closed.
 */
import { isThawError } from '../../errors.ts'
import type { FaultContext, Watched } from '../../pager.ts'
import { DESCRIPTORS_MAX, DescriptorMessages, type ReceivedMessage } from '../../util/descriptor-message.ts'
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

const PIECES_MAX = 64
/** What one read can take. */
const PIECE_BYTES = 16 * 1024

export class Connection implements Watched {
  readonly #options: ConnectionOptions
  readonly #native: Native
  readonly #messages: DescriptorMessages
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
    this.#messages = new DescriptorMessages(context.native, socket, { bytesMax: PIECE_BYTES, fdsMax: DESCRIPTORS_MAX })
    context.loop.watch(socket, this)
    this.#cancelDeadline = context.loop.after(timeoutMs, () => this.refuse(`no handshake within ${timeoutMs} ms`))
  }

  serve(): boolean {
    if (this.#isOver) return false
    const message = this.#messages.tryReceive()
    if (message === ERRNO.EAGAIN) return false
    if (typeof message === 'number') this.refuse(`it cannot be heard: errno ${message}`)
    else this.#take(message)
    return true
  }

  onBroken(error: unknown): void {
    this.refuse(`a bug: ${error instanceof Error ? error.stack : String(error)}`)
  }

  /** Keeps the first descriptor, closes the others. */
  #take({ bytes, fds, lostFds }: ReceivedMessage): void {
    if (lostFds) this.#lostDescriptors = true
    for (const fd of fds) {
      if (this.#descriptor < 0) this.#descriptor = this.#options.context.descriptors.own(fd)
      else this.#native.close(fd)
    }
    if (bytes.length === 0) this.refuse('it hung up before its handshake was complete')
    else this.#takePiece(bytes)
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
    onTaken({ peer, socket, messages: this.#messages, userfaultfd: this.#descriptor, layouts })
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
    this.#messages.end()
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
