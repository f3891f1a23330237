/** One client on a stream of Node's: takes what arrives, gives it to the session, and lets more come when the session wants it. */
import type { Socket } from 'node:net'
import { createServer, type TLSSocket } from 'node:tls'
import type { ErrorCode } from '../../errors.ts'
import type { Gathered } from '../../pager.ts'
import { Session, type SessionOptions } from './session.ts'
import type { TlsFiles, TlsTerms } from './tls-files.ts'
import type { TurnGiver } from './transmission.ts'
import { type ReplyBuffer, WIRE_BUFFER_BYTES, type Wire } from './wire.ts'

/** Kept for a peer that does not take it, beside what was under way. */
const KEPT_BYTES: number = 2 ** 20

const NOTHING: Buffer = Buffer.alloc(0)

export interface StreamConnectionOptions extends Pick<SessionOptions, 'image' | 'terms'> {
  /** Shared by connections that have their turns one after the other. */
  readonly replies: ReplyBuffer
  readonly socket: Socket
  readonly tls: TlsFiles
  /** The handshake ended well. */
  onAgreed(): void
  onUnreadable(page: number, code: ErrorCode | undefined): void
  /** @param error a bug, if that is why */
  onClosed(error?: unknown): void
}

export class StreamConnection implements TurnGiver {
  readonly #options: StreamConnectionOptions
  readonly #wire: StreamWire
  readonly #session: Session
  /** The plain one, until TLS takes its place. */
  #socket: Socket
  /** What came and was not taken yet. */
  #rest: Buffer = NOTHING
  #turn: NodeJS.Immediate | undefined
  #isAgreed = false
  #beganTls = false
  #isClosed = false

  constructor(options: StreamConnectionOptions) {
    const { image, terms, replies, socket } = options
    this.#options = options
    this.#socket = socket
    this.#wire = new StreamWire(replies, socket)
    this.#session = new Session({ image, terms, wire: this.#wire, turns: this, isTlsRequired: true })
  }

  /** Begins to serve it. */
  open(): void {
    this.#listen(this.#socket)
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
    clearImmediate(this.#turn)
    this.#session.close()
    this.#wire.drop()
    this.#socket.destroy()
    this.#options.socket.destroy()
    this.#options.onClosed(error)
  }

  #listen(socket: Socket): void {
    socket.on('data', (bytes: Buffer) => {
      this.#rest = this.#rest.length === 0 ? bytes : Buffer.concat([this.#rest, bytes])
      this.#takeTurn()
    })
    socket.on('drain', () => this.#takeTurn())
    socket.on('error', () => this.close())
    socket.on('close', () => this.close())
  }

  #takeTurn(): void {
    if (this.#isClosed) return
    try {
      if (!this.#wire.isBlocked) {
        this.#session.resume()
        this.#rest = this.#rest.subarray(this.#session.take(this.#rest, 0, this.#rest.length))
      }
      this.#settle()
    } catch (error) {
      this.close(error)
    }
  }

  /** Sends what a turn left to be sent, and has more come if the session wants it. */
  #settle(): void {
    if (this.#isClosed) return
    this.#wire.flush()
    const { wants, isOver, isAgreed, awaitsTls } = this.#session
    if (isAgreed && !this.#isAgreed) {
      this.#isAgreed = true
      this.#options.onAgreed()
    }
    if (awaitsTls) this.#awaitTls()
    else if (isOver) this.#end()
    else this.#goOn(wants)
  }

  #goOn(wants: 'bytes' | 'turn' | 'nothing'): void {
    const { isBlocked } = this.#wire
    if (wants === 'bytes' && !isBlocked) this.#socket.resume()
    else this.#socket.pause()
    if (wants !== 'turn' || isBlocked) return
    this.#turn ??= setImmediate(() => {
      this.#turn = undefined
      this.#takeTurn()
    })
  }

  /** Closes it once everything was sent. */
  #end(): void {
    this.#socket.pause()
    this.#socket.end(() => this.close())
  }

  #awaitTls(): void {
    if (this.#beganTls) return
    this.#beganTls = true
    const { tls, socket } = this.#options
    socket.removeAllListeners('data').removeAllListeners('drain').pause()
    if (this.#rest.length > 0) return void this.close()
    tls.terms().then(
      terms => this.#beginTls(terms),
      (error: unknown) => this.close(error),
    )
  }

  #beginTls({ cert, key, ca }: TlsTerms): void {
    if (this.#isClosed) return
    const { socket } = this.#options
    const server = createServer({ cert, key, ca, requestCert: ca !== undefined, rejectUnauthorized: ca !== undefined })
    server.once('tlsClientError', () => this.close())
    server.once('secureConnection', secured => this.#secured(secured))
    server.emit('connection', socket)
    socket.resume()
  }

  #secured(socket: TLSSocket): void {
    if (this.#isClosed) {
      socket.destroy()
      return
    }
    this.#socket = socket
    this.#wire.socket = socket
    this.#session.secured()
    this.#listen(socket)
    this.#settle()
  }
}

/** A wire over a stream. What it takes is copied: the stream sends it when it can. */
class StreamWire implements Wire {
  readonly buffer: Buffer
  readonly #replies: ReplyBuffer
  socket: Socket

  constructor(replies: ReplyBuffer, socket: Socket) {
    this.#replies = replies
    this.buffer = replies.bytes
    this.socket = socket
  }

  get isBlocked(): boolean {
    return this.socket.writableNeedDrain
  }

  hasRoom(sizeBytes: number): boolean {
    return this.socket.writableLength + sizeBytes + WIRE_BUFFER_BYTES <= KEPT_BYTES
  }

  reserve(sizeBytes: number): number {
    return this.#replies.reserve(this, sizeBytes)
  }

  /** Forgets what was not sent. */
  drop(): void {
    this.#replies.leave(this)
  }

  send(bytes: Gathered): void {
    const reserved = this.#replies.reservedBy(this)
    const copy = Buffer.allocUnsafe(reserved + bytes.sizeBytes)
    this.buffer.copy(copy, 0, 0, reserved)
    bytes.copyTo(copy.subarray(reserved))
    this.#replies.clear()
    this.socket.write(copy)
  }

  flush(): void {
    const reserved = this.#replies.reservedBy(this)
    if (reserved === 0) return
    this.#replies.clear()
    this.socket.write(Buffer.from(this.buffer.subarray(0, reserved)))
  }
}
