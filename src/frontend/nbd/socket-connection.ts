/** One client on a socket of a pager: takes what arrives, gives it to the session, and watches the socket for what is needed next. */
import assert from 'node:assert/strict'
import type { ErrorCode } from '../../errors.ts'
import type { OwnedDescriptors, PagerLoop, Watched } from '../../pager.ts'
import { ERRNO, type Native } from '../../util/native.ts'
import { SHORT_BYTES_MAX } from './handshake.ts'
import { Session, type SessionOptions } from './session.ts'
import { type SocketMemory, socketMemory } from './socket-memory.ts'
import { SocketWire } from './socket-wire.ts'
import type { TurnGiver } from './transmission.ts'

/** Of <sys/socket.h>. */
const MSG_DONTWAIT = 0x40
/** Of <poll.h>. */
const POLLERR = 8
const POLLHUP = 16

const NOTHING: Buffer = Buffer.alloc(0)

export interface SocketConnectionOptions extends Pick<SessionOptions, 'image' | 'terms'> {
  readonly native: Native
  readonly loop: PagerLoop
  readonly descriptors: OwnedDescriptors
  /** Non-blocking, one of `descriptors`. Closed by the connection. */
  readonly fd: number
  readonly isTcp: boolean
  /** The handshake ended well. */
  onAgreed(): void
  onUnreadable(page: number, code: ErrorCode | undefined): void
  /** Before the descriptor is closed. @param error a bug, if that is why */
  onClosing(error?: unknown): void
}

export class SocketConnection implements Watched, TurnGiver {
  readonly #options: SocketConnectionOptions
  readonly #native: Native
  readonly #fd: number
  readonly #memory: SocketMemory
  readonly #wire: SocketWire
  readonly #session: Session
  /** What came and was not taken yet. */
  #rest: Buffer = NOTHING
  #isReadable = true
  #isWritable = false
  #isAgreed = false
  #isClosed = false

  constructor(options: SocketConnectionOptions) {
    const { native, fd, isTcp, image, terms } = options
    this.#options = options
    this.#native = native
    this.#fd = fd
    this.#memory = socketMemory(native)
    this.#wire = new SocketWire(native, this.#memory, fd, { sendsHeaderApart: !isTcp })
    this.#session = new Session({ image, terms, wire: this.#wire, turns: this, isTlsRequired: false })
  }

  /** Begins to serve it. */
  open(): void {
    this.#options.loop.watch(this.#fd, this)
    this.#settle()
  }

  serve(): boolean {
    if (this.#isClosed) return false
    if (!this.#isReadable) return this.#closeIfGone()
    const { arrival, arrivesAt, received } = this.#memory
    const count = this.#native.recv(this.#fd, arrival, arrival.length, MSG_DONTWAIT)
    if (count < 0 && this.#native.errno() === ERRNO.EAGAIN) return false
    if (count <= 0) this.close()
    else {
      assert(this.#rest.length <= SHORT_BYTES_MAX)
      const at = arrivesAt - this.#rest.length
      this.#rest.copy(received, at)
      const next = this.#session.take(received, at, arrivesAt + count)
      this.#rest = next === arrivesAt + count ? NOTHING : Buffer.from(received.subarray(next, arrivesAt + count))
      this.#settle()
    }
    return true
  }

  onWritable(): void {
    if (this.#isClosed) return
    this.#wire.drain()
    if (!this.#wire.isBlocked) {
      this.#session.resume()
      this.#rest = this.#rest.subarray(this.#session.take(this.#rest, 0, this.#rest.length))
    }
    this.#settle()
  }

  onProgress(): void {
    this.#settle()
  }

  onUnreadable(page: number, code: ErrorCode | undefined): void {
    this.#options.onUnreadable(page, code)
  }

  onBroken(error: unknown): void {
    this.close(error)
  }

  /** Idempotent. */
  close(error?: unknown): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#session.close()
    this.#wire.drop()
    this.#options.loop.unwatch(this.#fd)
    this.#options.onClosing(error)
    this.#options.descriptors.close(this.#fd)
  }

  /** Sends what a turn left to be sent, and watches for what comes next. */
  #settle(): void {
    const { wants, isOver, isAgreed } = this.#session
    this.#wire.flush()
    if (isAgreed && !this.#isAgreed) {
      this.#isAgreed = true
      this.#options.onAgreed()
    }
    const { isBlocked } = this.#wire
    if (this.#wire.isBroken || (isOver && !isBlocked)) this.close()
    else this.#watch(!isBlocked && wants === 'bytes', isBlocked || wants === 'turn')
  }

  #watch(readable: boolean, writable: boolean): void {
    if (readable === this.#isReadable && writable === this.#isWritable) return
    this.#isReadable = readable
    this.#isWritable = writable
    this.#options.loop.rewatch(this.#fd, { readable, writable })
  }

  /** Told while nothing is to be read: then the peer has hung up, or it is only asked in passing. */
  #closeIfGone(): boolean {
    const poll = Buffer.alloc(8)
    poll.writeInt32LE(this.#fd, 0)
    this.#native.poll(poll, 1, 0)
    const isGone = (poll.readUInt16LE(6) & (POLLERR | POLLHUP)) !== 0
    if (isGone) this.close()
    return isGone
  }
}
