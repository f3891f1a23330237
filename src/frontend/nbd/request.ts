/** A request of a client, from its header to its reply. Used again and again: it is also what the image calls back. */
import type { ErrorCode } from '../../errors.ts'
import type { Gathered, ReadCallbacks, WriteCallbacks } from '../../pager.ts'
import { NBD_ERROR } from './protocol.ts'

/** What a request's image calls come back to. */
export interface RequestOwner {
  onBytes(request: Request, bytes: Gathered): void
  onWritten(request: Request): void
  onFailed(request: Request, code: ErrorCode | undefined): void
  onBroken(error: unknown): void
}

export class Request implements ReadCallbacks, WriteCallbacks {
  readonly #owner: RequestOwner
  command = 0
  flags = 0
  /** The client's name of it. */
  cookieHigh = 0
  cookieLow = 0
  /** What is left to do: bytes [offset, offset + left). */
  offset = 0
  left = 0
  /** Of NBD_ERROR: what it will be answered with. */
  error: number = NBD_ERROR.none
  isActive = false
  /** All is done, but the reply could not be sent yet. */
  isSettled = false
  /** Part of its reply was sent, so that it cannot become an error any more: a simple reply of several pieces. */
  isBegun = false
  /** The image was called and has not called back. */
  isWaiting = false
  /** It is being worked on up the stack: what calls back now need not go on with it. */
  isStepping = false
  /** Of the image call under way. */
  stepBytes = 0

  constructor(owner: RequestOwner) {
    this.#owner = owner
  }

  /** @param at where its header begins, of which the magic was looked at */
  begin(bytes: Buffer, at: number): void {
    this.flags = bytes.readUInt16BE(at + 4)
    this.command = bytes.readUInt16BE(at + 6)
    this.cookieHigh = bytes.readUInt32BE(at + 8)
    this.cookieLow = bytes.readUInt32BE(at + 12)
    // Above 2⁵³ it is not exact, and beyond every image.
    this.offset = bytes.readUInt32BE(at + 16) * 2 ** 32 + bytes.readUInt32BE(at + 20)
    this.left = bytes.readUInt32BE(at + 24)
    this.error = NBD_ERROR.none
    this.isActive = true
    this.isSettled = false
    this.isBegun = false
    this.isWaiting = false
    this.isStepping = false
  }

  /** That many bytes are done. */
  advance(sizeBytes: number): void {
    this.offset += sizeBytes
    this.left -= sizeBytes
  }

  onBytes(bytes: Gathered): void {
    this.#owner.onBytes(this, bytes)
  }

  onReadFailed(code: ErrorCode | undefined): void {
    this.#owner.onFailed(this, code)
  }

  onWritten(): void {
    this.#owner.onWritten(this)
  }

  onWriteFailed(code: ErrorCode | undefined): void {
    this.#owner.onFailed(this, code)
  }

  onBroken(error: unknown): void {
    this.#owner.onBroken(error)
  }
}
