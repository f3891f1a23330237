/**
 * The pager's half of `serveNbd`: accepts clients at a listening socket that the main half made, and serves each as an NBD session on the image's pages.
 *
 * At most `connectionsMax` at a time. One more is closed at once, unless another has not finished its handshake: then the one that has been at it for longest gives way, so that
 * clients who only connect cannot keep out those who mean it. A handshake has `handshakeTimeoutMs`.
 */
import assert from 'node:assert/strict'
import type { ErrorCode } from '../../errors.ts'
import type { FrontEnd, FrontEndContext, FrontEndSpec, OwnedDescriptors, PagerLoop, ServedImage, Watched } from '../../pager.ts'
import { ERRNO, type Native } from '../../util/native.ts'
import type { ExportTerms } from './option-replies.ts'
import { SocketConnection } from './socket-connection.ts'

export interface NbdSpec extends FrontEndSpec {
  readonly kind: 'nbd'
  readonly image: string
  /** What clients may call it, beside the empty name. */
  readonly exportName: string
  /** Clients may write. */
  readonly isWritable: boolean
  /** Bound and listening, non-blocking. The main half closes it, after the front end has ended. */
  readonly listenFd: number
  readonly isTcp: boolean
  readonly connectionsMax: number
  readonly handshakeTimeoutMs: number
}

/** `connections`: clients whose handshake has ended well. `error`: a bug ended this one. `broken`: a bug, nobody is served any more. */
export type NbdEvent =
  | { readonly kind: 'connected'; readonly connections: number }
  | { readonly kind: 'disconnected'; readonly connections: number; readonly error?: string }
  | { readonly kind: 'unreadable'; readonly page: number; readonly code: ErrorCode | undefined }
  | { readonly kind: 'broken'; readonly reason: string }

/** Of <sys/socket.h> and <netinet/tcp.h>. */
const SOCK_NONBLOCK = 0o4000
const SOCK_CLOEXEC = 0o2000000
const SOL_SOCKET = 1
const SO_SNDBUF = 7
const SO_KEEPALIVE = 9
const IPPROTO_TCP = 6
const TCP_NODELAY = 1

/** Asked for; the kernel gives as much as its limits allow. A reply of 256 KiB then leaves in one piece, most of the time. */
const SEND_BUFFER_BYTES: number = 2 ** 20
const ACCEPTS_A_TURN = 16
/** Before it is tried again to accept a client, when there was no descriptor left. */
const AGAIN_MS = 100

/** A client may ask again and again for what cannot be had: main hears of it so often. */
export const UNREADABLE_INTERVAL_MS = 1000

export function startNbd(context: FrontEndContext, spec: NbdSpec): FrontEnd {
  return new NbdListener(context, spec)
}

class NbdListener implements FrontEnd, Watched {
  readonly #native: Native
  readonly #loop: PagerLoop
  readonly #descriptors: OwnedDescriptors
  readonly #image: ServedImage
  readonly #spec: NbdSpec
  readonly #terms: ExportTerms
  readonly #emit: (event: NbdEvent) => void
  readonly #connections = new Set<SocketConnection>()
  /** Those in their handshake, the oldest first, with the time by which it has to have ended. */
  readonly #haggling = new Map<SocketConnection, number>()
  #stopTimer: (() => void) | undefined
  #stopPause: (() => void) | undefined
  #unreadableAt = Number.NEGATIVE_INFINITY
  #isClosed = false

  constructor({ native, loop, descriptors, images, emit }: FrontEndContext, spec: NbdSpec) {
    const image = images.get(spec.image)
    assert(image !== undefined)
    this.#native = native
    this.#loop = loop
    this.#descriptors = descriptors
    this.#image = image
    this.#spec = spec
    this.#emit = emit
    this.#terms = { name: Buffer.from(spec.exportName), sizeBytes: image.sizeBytes, isWritable: spec.isWritable && image.isWritable }
    loop.watch(spec.listenFd, this)
  }

  serve(): boolean {
    for (let accepted = 0; accepted < ACCEPTS_A_TURN; accepted++) {
      const fd = this.#isClosed ? -1 : this.#native.accept(this.#spec.listenFd, SOCK_NONBLOCK | SOCK_CLOEXEC)
      if (fd < 0) return this.#onNobody() || accepted > 0
      this.#admit(this.#descriptors.own(fd))
    }
    return true
  }

  onBroken(error: unknown): void {
    this.close()
    this.#emit({ kind: 'broken', reason: error instanceof Error ? String(error.stack) : String(error) })
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#stopTimer?.()
    this.#stopPause?.()
    this.#loop.unwatch(this.#spec.listenFd)
    for (const connection of this.#connections) connection.close()
  }

  /** Nobody waits; or nobody can be accepted: then those who wait do so for a while, or they would be heard of without end. */
  #onNobody(): boolean {
    const errno = this.#isClosed ? ERRNO.EAGAIN : this.#native.errno()
    if (errno === ERRNO.EAGAIN) return false
    this.#loop.rewatch(this.#spec.listenFd, { readable: false, writable: false })
    this.#stopPause = this.#loop.after(AGAIN_MS, () => this.#loop.rewatch(this.#spec.listenFd, { readable: true, writable: false }))
    return true
  }

  #admit(fd: number): void {
    const [oldest] = this.#haggling.keys()
    if (this.#connections.size >= this.#spec.connectionsMax) oldest?.close()
    if (this.#connections.size >= this.#spec.connectionsMax) this.#descriptors.close(fd)
    else this.#open(fd)
  }

  #open(fd: number): void {
    const { isTcp, handshakeTimeoutMs } = this.#spec
    this.#setOptions(fd)
    const connection: SocketConnection = new SocketConnection({
      native: this.#native,
      loop: this.#loop,
      image: this.#image,
      terms: this.#terms,
      descriptors: this.#descriptors,
      fd,
      isTcp,
      onAgreed: () => this.#onAgreed(connection),
      onUnreadable: (page, code) => this.#onUnreadable(page, code),
      onClosing: error => this.#onClosing(connection, error),
    })
    this.#connections.add(connection)
    this.#haggling.set(connection, performance.now() + handshakeTimeoutMs)
    this.#stopTimer ??= this.#loop.after(handshakeTimeoutMs, this.#closeSlow)
    connection.open()
  }

  #setOptions(fd: number): void {
    const set = (level: number, option: number, value: number): void => {
      INT.writeInt32LE(value)
      // What is refused was only for speed.
      this.#native.setsockopt(fd, level, option, INT, INT.length)
    }
    set(SOL_SOCKET, SO_SNDBUF, SEND_BUFFER_BYTES)
    if (!this.#spec.isTcp) return
    set(IPPROTO_TCP, TCP_NODELAY, 1)
    set(SOL_SOCKET, SO_KEEPALIVE, 1)
  }

  /** Closes those whose handshake takes too long. One timer is enough: they are in the order of their deadlines. */
  readonly #closeSlow = (): void => {
    const now = performance.now()
    for (const [connection, until] of this.#haggling) {
      if (until > now) {
        this.#stopTimer = this.#loop.after(until - now, this.#closeSlow)
        return
      }
      connection.close()
    }
    this.#stopTimer = undefined
  }

  get #agreedCount(): number {
    return this.#connections.size - this.#haggling.size
  }

  #onAgreed(connection: SocketConnection): void {
    this.#haggling.delete(connection)
    this.#emit({ kind: 'connected', connections: this.#agreedCount })
  }

  #onUnreadable(page: number, code: ErrorCode | undefined): void {
    const now = performance.now()
    if (now < this.#unreadableAt + UNREADABLE_INTERVAL_MS) return
    this.#unreadableAt = now
    this.#emit({ kind: 'unreadable', page, code })
  }

  #onClosing(connection: SocketConnection, error: unknown): void {
    this.#connections.delete(connection)
    const wasAgreed = !this.#haggling.delete(connection)
    if (this.#isClosed || (!wasAgreed && error === undefined)) return
    this.#emit({ kind: 'disconnected', connections: this.#agreedCount, ...(error !== undefined && { error: String(error) }) })
  }
}

const INT: Buffer = Buffer.alloc(4)
