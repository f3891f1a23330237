/**
 * Requests and their replies, after the handshake: a machine over bytes. It takes requests as they come, has the image read and write, and replies in whatever order that ends.
 *
 *     take(bytes) ─▶ request ─▶ step: image.read / write / zero ─▶ called back at once: reply, next step
 *                        │                                     └─▶ later: reply then
 *                        └─▶ parked, while the peer does not take replies or the turn's share is used up; `resume` goes on
 *
 * A read that ends while the peer does not take replies is not kept: its bytes are read again when it does. So what a connection costs is REQUESTS_MAX requests, what its wire
 * keeps, and the part of a page that a write has not brought yet. Payloads are written as they come, in whole pages, and never collected.
 *
 * Writes are in the overlay when they are answered, and it lives as long as its restore: so a FLUSH has nothing to wait for, and FUA nothing to add. Of an image that lost a write, by
 * whichever front end, FLUSH is an error.
 */
import { PAGE_BYTES } from '../../chunk.ts'
import type { ErrorCode } from '../../errors.ts'
import { type Gathered, type ServedImage, TRANSFER_BYTES_MAX } from '../../pager.ts'
import { errnoOf } from '../errno.ts'
import { collectExtents, EXTENTS_MAX, extents, nextPart } from './extents.ts'
import type { Agreement, ExportTerms } from './option-replies.ts'
import { COMMAND, COMMAND_FLAG, NBD_ERROR, PAYLOAD_BYTES_MAX, REQUEST_BYTES, REQUEST_MAGIC } from './protocol.ts'
import { REPLY_BYTES_MAX, Replies } from './replies.ts'
import { Request, type RequestOwner } from './request.ts'
import { alignTrim, refusalOf, wholePages } from './rules.ts'
import type { Wire } from './wire.ts'

/** Under way at a time, of one connection. Nothing more is read of it until one of them ends. */
export const REQUESTS_MAX = 64
/** Work for one connection before others have their turn. */
const TURN_BYTES: number = 2 ** 20
/** What a request counts beside its bytes, and what making zero or looking for extents counts. */
const REQUEST_COST = 4096
const MARKING_COST: number = TURN_BYTES / 4

const ZEROS: Buffer = Buffer.alloc(2 ** 16)

/** What a connection can use now: more bytes, a turn, or neither until something ends. */
export type Wants = 'bytes' | 'turn' | 'nothing'

/** Who gives the turns. */
export interface TurnGiver {
  /** Something was done outside of a turn: what the machine wants may have changed, and its wire is to be flushed. */
  onProgress(): void
  /** Bytes could not be had; the client was told so, or the connection ends. */
  onUnreadable(page: number, code: ErrorCode | undefined): void
  /** A bug. The connection must end. */
  onBroken(error: unknown): void
}

export interface TransmissionOptions {
  readonly image: ServedImage
  readonly terms: ExportTerms
  readonly wire: Wire
  readonly turns: TurnGiver
}

export class Transmission implements RequestOwner {
  readonly #image: ServedImage
  readonly #terms: ExportTerms
  readonly #wire: Wire
  readonly #agreement: Agreement
  readonly #turns: TurnGiver
  readonly #replies: Replies
  /** All there ever were, and those of them that are free. */
  readonly #requests: Request[] = []
  readonly #free: Request[] = []
  /** They go on with `resume`. */
  readonly #parked: Request[] = []
  /** A write whose payload is coming. */
  #payload: Request | undefined
  /** A simple reply that is sent in several pieces, between which nothing else may be sent. */
  #speaker: Request | undefined
  #budget = 0
  #isLast = true
  #isShort = true
  #isEnding = false
  #isBroken = false

  constructor({ image, terms, wire, turns }: TransmissionOptions, agreement: Agreement) {
    this.#image = image
    this.#terms = terms
    this.#wire = wire
    this.#agreement = agreement
    this.#turns = turns
    this.#replies = new Replies(wire, agreement.hasStructuredReplies)
  }

  /** The connection is to be closed once the wire is empty. */
  get isOver(): boolean {
    return this.#isBroken || (this.#isEnding && this.#inFlight === 0)
  }

  get wants(): Wants {
    if (this.#nextParked() >= 0) return 'turn'
    if (this.#isOccupied) return 'nothing'
    return this.#isShort ? 'bytes' : 'turn'
  }

  /** Takes bytes [at, end) as far as they are whole and can be worked on now. The next call begins with those that are left. @returns where they begin */
  take(bytes: Buffer, at: number, end: number): number {
    this.#budget = TURN_BYTES
    this.#isShort = false
    let next = at
    while (!this.#isOccupied && !this.#wire.isBlocked && this.#parked.length === 0 && this.#budget > 0) {
      const after = this.#payload === undefined ? this.#takeRequest(bytes, next, end) : this.#takePayload(this.#payload, bytes, next, end)
      this.#isShort = after === next
      if (this.#isShort) break
      next = after
    }
    this.#isLast = true
    return next
  }

  /** Goes on with requests that were parked. */
  resume(): void {
    this.#budget = TURN_BYTES
    for (let next = this.#nextParked(); next >= 0 && !this.#wire.isBlocked && this.#budget > 0; next = this.#nextParked()) {
      const [request] = this.#parked.splice(next, 1)
      if (request!.isSettled) this.#finish(request!, request!.error)
      else this.#work(request!)
    }
  }

  /** Takes everything back. Nothing is called any more. */
  close(): void {
    this.#isBroken = true
    for (const request of this.#requests) {
      if (request.isActive) this.#image.cancel(request)
      request.isActive = false
    }
  }

  get #inFlight(): number {
    return this.#requests.length - this.#free.length
  }

  /** Whatever came could not be worked on before something ends. */
  get #isOccupied(): boolean {
    return (
      this.#isBroken ||
      this.#isEnding ||
      this.#speaker !== undefined ||
      this.#payload?.isWaiting === true ||
      (this.#payload === undefined && this.#inFlight === REQUESTS_MAX)
    )
  }

  /** The first that may go on, or -1. */
  #nextParked(): number {
    if (this.#speaker !== undefined) return this.#parked.indexOf(this.#speaker)
    return this.#parked.length > 0 ? 0 : -1
  }

  #takeRequest(bytes: Buffer, at: number, end: number): number {
    if (end - at < REQUEST_BYTES) return at
    if (bytes.readUInt32BE(at) !== REQUEST_MAGIC) return this.#breakOff(end)
    this.#budget -= REQUEST_COST
    this.#isLast = end - at < 2 * REQUEST_BYTES
    const request = this.#newRequest()
    request.begin(bytes, at)
    if (request.command === COMMAND.write && request.left > PAYLOAD_BYTES_MAX) return this.#breakOff(end)
    this.#begin(request)
    return at + REQUEST_BYTES
  }

  #newRequest(): Request {
    const free = this.#free.pop()
    if (free !== undefined) return free
    const request = new Request(this)
    this.#requests.push(request)
    return request
  }

  /** There is no way to go on: the peer does not speak the protocol, or a reply cannot be completed. */
  #breakOff(end: number): number {
    this.#isBroken = true
    return end
  }

  #begin(request: Request): void {
    request.error = refusalOf(request, this.#terms, this.#agreement)
    if (request.command === COMMAND.flush && this.#image.isDamaged) request.error ||= NBD_ERROR.io
    if (request.command === COMMAND.disconnect) this.#end(request)
    else if (request.command === COMMAND.write && request.left > 0) this.#payload = request
    else if (request.error !== NBD_ERROR.none || request.command === COMMAND.flush) this.#finish(request, request.error)
    else if (request.command === COMMAND.blockStatus) this.#answerStatus(request)
    else {
      if (request.command === COMMAND.trim) alignTrim(request, this.#terms.sizeBytes)
      this.#work(request)
    }
  }

  /** Has no reply. What is under way is answered before the connection closes. */
  #end(request: Request): void {
    this.#isEnding = true
    this.#release(request)
  }

  #answerStatus(request: Request): void {
    const extentsMax = (request.flags & COMMAND_FLAG.requestOne) === 0 ? EXTENTS_MAX : 1
    const count = collectExtents(this.#image, request.offset, request.left, extentsMax)
    this.#budget -= MARKING_COST
    this.#replies.blockStatus(request, extents, count)
    this.#release(request)
  }

  /** Takes what there is of a payload, in whole pages, or throws it away if the write was refused. */
  #takePayload(request: Request, bytes: Buffer, at: number, end: number): number {
    const isRefused = request.error !== NBD_ERROR.none
    const available = Math.min(end - at, request.left)
    const sizeBytes = isRefused ? available : wholePages(request, available)
    if (sizeBytes === 0) return at
    this.#budget -= sizeBytes
    if (isRefused) this.#goOnWithPayload(request, sizeBytes)
    else {
      request.isWaiting = true
      request.stepBytes = sizeBytes
      request.isStepping = true
      this.#image.write(request.offset, bytes.subarray(at, at + sizeBytes), request)
      request.isStepping = false
    }
    return at + sizeBytes
  }

  #goOnWithPayload(request: Request, sizeBytes: number): void {
    request.advance(sizeBytes)
    if (request.left > 0) return
    this.#payload = undefined
    this.#finish(request, request.error)
  }

  /** Goes on with a request until it is done or has to wait. */
  #work(request: Request): void {
    request.isStepping = true
    do {
      if (this.#wire.isBlocked || this.#budget <= 0 || this.#isSpokenOver(request)) {
        this.#parked.push(request)
        break
      }
      this.#step(request)
    } while (request.isActive && !request.isWaiting && !request.isSettled)
    request.isStepping = false
  }

  #isSpokenOver(request: Request): boolean {
    return this.#speaker !== undefined && this.#speaker !== request
  }

  #step(request: Request): void {
    if (request.command === COMMAND.read) this.#stepRead(request)
    else if (request.left === 0) this.#finish(request, NBD_ERROR.none)
    else if (request.command === COMMAND.cache) this.#read(request, Math.min(request.left, TRANSFER_BYTES_MAX))
    else this.#stepZero(request)
  }

  #stepRead(request: Request): void {
    const isWhole = !this.#agreement.hasStructuredReplies || (request.flags & COMMAND_FLAG.dontFragment) !== 0
    if (request.left === 0) {
      this.#replies.nothing(request)
      this.#release(request)
    } else if (isWhole) this.#read(request, Math.min(request.left, TRANSFER_BYTES_MAX))
    else this.#stepParts(request)
  }

  #stepParts(request: Request): void {
    const { isHole, sizeBytes } = nextPart(this.#image, request.offset, request.left)
    if (isHole) {
      this.#replies.hole(request, sizeBytes)
      this.#goOnWithRead(request, sizeBytes)
    } else this.#read(request, sizeBytes)
  }

  #read(request: Request, sizeBytes: number): void {
    request.isWaiting = true
    this.#image.read(request.offset, sizeBytes, request)
  }

  /** NO_HOLE asks that a later write finds room: only bytes that were written have that. */
  #stepZero(request: Request): void {
    const isWritten = (request.flags & COMMAND_FLAG.noHole) !== 0 && request.command === COMMAND.writeZeroes
    request.stepBytes = Math.min(request.left, isWritten ? ZEROS.length : request.left)
    this.#budget -= isWritten ? request.stepBytes : MARKING_COST
    request.isWaiting = true
    if (isWritten) this.#image.write(request.offset, ZEROS.subarray(0, request.stepBytes), request)
    else this.#image.zero(request.offset, request.stepBytes, request)
  }

  onBytes(request: Request, bytes: Gathered): void {
    if (request.isStepping) this.#give(request, bytes)
    else {
      this.#outsideTurn(() => {
        request.isWaiting = false
        if (this.#canSpeak(request, bytes.sizeBytes)) this.#give(request, bytes)
        else this.#parked.push(request)
      }, request)
    }
  }

  /** Whether a reply can be handed to the wire now. */
  #canSpeak(request: Request, sizeBytes: number): boolean {
    return !this.#isSpokenOver(request) && (!this.#wire.isBlocked || this.#wire.hasRoom(sizeBytes + REPLY_BYTES_MAX))
  }

  #give(request: Request, bytes: Gathered): void {
    request.isWaiting = false
    const { sizeBytes } = bytes
    this.#budget -= sizeBytes
    if (request.command === COMMAND.cache) request.advance(sizeBytes)
    else {
      this.#replies.data(request, bytes, this.#isLast)
      request.isBegun = true
      this.#goOnWithRead(request, sizeBytes)
    }
  }

  #goOnWithRead(request: Request, sizeBytes: number): void {
    request.advance(sizeBytes)
    if (request.left === 0) this.#release(request)
    else if (!this.#agreement.hasStructuredReplies) this.#speaker = request
  }

  onWritten(request: Request): void {
    if (request.isStepping) this.#goOnWithWrite(request)
    else this.#outsideTurn(() => this.#goOnWithWrite(request), request)
  }

  onFailed(request: Request, code: ErrorCode | undefined): void {
    if (request.isStepping) this.#fail(request, code)
    else this.#outsideTurn(() => this.#fail(request, code), request)
  }

  onBroken(error: unknown): void {
    this.#turns.onBroken(error)
  }

  #goOnWithWrite(request: Request): void {
    request.isWaiting = false
    if (request === this.#payload) this.#goOnWithPayload(request, request.stepBytes)
    else request.advance(request.stepBytes)
  }

  #fail(request: Request, code: ErrorCode | undefined): void {
    request.isWaiting = false
    request.error = errnoOf(code)
    if (code !== 'NO_SPACE') this.#turns.onUnreadable(Math.floor(request.offset / PAGE_BYTES), code)
    if (request === this.#payload) this.#goOnWithPayload(request, request.stepBytes)
    // A simple reply said that all is well: the client must not take what follows for data.
    else if (request === this.#speaker) this.#isBroken = true
    else this.#finish(request, request.error)
  }

  /** Called back later: there is nobody up the stack who goes on. */
  #outsideTurn(work: () => void, request: Request): void {
    this.#budget = TURN_BYTES
    work()
    const isParked = this.#parked.includes(request)
    if (request.isActive && !request.isWaiting && !request.isSettled && !isParked && request !== this.#payload) this.#work(request)
    this.#turns.onProgress()
  }

  #finish(request: Request, error: number): void {
    if (!this.#canSpeak(request, 0)) {
      request.isSettled = true
      request.error = error
      this.#parked.push(request)
      return
    }
    this.#replies.done(request, error)
    this.#release(request)
  }

  #release(request: Request): void {
    request.isActive = false
    if (this.#speaker === request) this.#speaker = undefined
    this.#free.push(request)
  }
}
