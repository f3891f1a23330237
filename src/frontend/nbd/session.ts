/** One connection's talk: the handshake, then requests. It knows bytes and a wire, and nothing of what carries them. */
import { Handshake } from './handshake.ts'
import { Transmission, type TransmissionOptions, type Wants } from './transmission.ts'

export interface SessionOptions extends TransmissionOptions {
  readonly isTlsRequired: boolean
}

export class Session {
  readonly #options: SessionOptions
  readonly #handshake: Handshake
  #transmission: Transmission | undefined
  #isShort = true

  /** Greets. */
  constructor(options: SessionOptions) {
    const { terms, wire, isTlsRequired } = options
    this.#options = options
    this.#handshake = new Handshake(terms, { isTlsRequired, send: bytes => void bytes.copy(wire.buffer, wire.reserve(bytes.length)) })
  }

  /** The handshake ended well: requests are taken. */
  get isAgreed(): boolean {
    return this.#transmission !== undefined
  }

  /** The peer begins TLS with the next byte; `secured` says that it is there. */
  get awaitsTls(): boolean {
    return this.#handshake.state === 'tls'
  }

  /** The connection is to be closed once the wire is empty. */
  get isOver(): boolean {
    return this.#transmission?.isOver ?? this.#handshake.state === 'over'
  }

  get wants(): Wants {
    if (this.#transmission !== undefined) return this.#transmission.wants
    if (this.#handshake.state !== 'haggling') return 'nothing'
    return this.#isShort ? 'bytes' : 'turn'
  }

  /**
   * Takes bytes [at, end) as far as they are whole and can be worked on now; the next call begins with those that are left: at most SHORT_BYTES_MAX, if it wants more bytes.
   * @returns where they begin
   */
  take(bytes: Buffer, at: number, end: number): number {
    const next = this.#transmission === undefined ? this.#haggle(bytes, at, end) : at
    return this.#transmission === undefined ? next : this.#transmission.take(bytes, next, end)
  }

  resume(): void {
    this.#transmission?.resume()
  }

  secured(): void {
    this.#handshake.secured()
    this.#isShort = true
  }

  /** Nothing is called any more. */
  close(): void {
    this.#transmission?.close()
  }

  #haggle(bytes: Buffer, at: number, end: number): number {
    const { wire } = this.#options
    let next = at
    this.#isShort = false
    while (this.#handshake.state === 'haggling' && !wire.isBlocked && !this.#isShort) {
      const after = this.#handshake.take(bytes, next, end)
      this.#isShort = after === next
      next = after
    }
    if (this.#handshake.state === 'agreed') this.#transmission = new Transmission(this.#options, this.#handshake.agreement)
    return next
  }
}
