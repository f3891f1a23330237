/** Replies to requests, put together in the wire's buffer: bytes as the protocol lays them out. Nothing is allocated. */
import type { Gathered } from '../../pager.ts'
import {
  ALLOCATION_CONTEXT_ID,
  CHUNK,
  CHUNK_BYTES,
  CHUNK_FLAG_DONE,
  NBD_ERROR,
  SIMPLE_REPLY_BYTES,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from './protocol.ts'
import type { Request } from './request.ts'
import type { Wire } from './wire.ts'

/** No reply without data takes more room, but a block status. */
export const REPLY_BYTES_MAX = 64

const WORD = 2 ** 32

export class Replies {
  readonly #wire: Wire
  readonly #isStructured: boolean

  constructor(wire: Wire, isStructured: boolean) {
    this.#wire = wire
    this.#isStructured = isStructured
  }

  /** The reply to a request that has no data, or failed. */
  done(request: Request, error: number): void {
    if (this.#isStructured && error !== NBD_ERROR.none) this.#failed(request, error)
    else this.#simple(request, error)
  }

  /** The next bytes of a read. @param isLast nothing else is about to be sent */
  data(request: Request, bytes: Gathered, isLast: boolean): void {
    if (this.#isStructured) {
      const at = this.#chunk(request, CHUNK.offsetData, 8 + bytes.sizeBytes, 8, bytes.sizeBytes === request.left)
      this.#writeOffset(request.offset, at)
    } else if (!request.isBegun) this.#simple(request, NBD_ERROR.none)
    this.#wire.send(bytes, isLast)
  }

  /** The next bytes of a read are zeros. Structured replies only. */
  hole(request: Request, sizeBytes: number): void {
    const at = this.#chunk(request, CHUNK.offsetHole, 12, 12, sizeBytes === request.left)
    this.#writeOffset(request.offset, at)
    this.#wire.buffer.writeUInt32BE(sizeBytes, at + 8)
  }

  /** A read of nothing. */
  nothing(request: Request): void {
    if (this.#isStructured) this.#chunk(request, CHUNK.none, 0, 0, true)
    else this.#simple(request, NBD_ERROR.none)
  }

  /** @param extents lengths and flags in turns; @param count of both together */
  blockStatus(request: Request, extents: Uint32Array, count: number): void {
    const sizeBytes = 4 + count * 4
    let at = this.#chunk(request, CHUNK.blockStatus, sizeBytes, sizeBytes, true)
    at = this.#wire.buffer.writeUInt32BE(ALLOCATION_CONTEXT_ID, at)
    for (let i = 0; i < count; i++) at = this.#wire.buffer.writeUInt32BE(extents[i]!, at)
  }

  #simple({ cookieHigh, cookieLow }: Request, error: number): void {
    const at = this.#wire.reserve(SIMPLE_REPLY_BYTES)
    const { buffer } = this.#wire
    buffer.writeUInt32BE(SIMPLE_REPLY_MAGIC, at)
    buffer.writeUInt32BE(error, at + 4)
    buffer.writeUInt32BE(cookieHigh, at + 8)
    buffer.writeUInt32BE(cookieLow, at + 12)
  }

  #failed(request: Request, error: number): void {
    const at = this.#chunk(request, CHUNK.error, 6, 6, true)
    this.#wire.buffer.writeUInt32BE(error, at)
    this.#wire.buffer.writeUInt16BE(0, at + 4)
  }

  /** Writes a chunk's header. @param reserved of its payload, to be written at what is returned */
  #chunk({ cookieHigh, cookieLow }: Request, type: number, payloadBytes: number, reserved: number, isDone: boolean): number {
    const at = this.#wire.reserve(CHUNK_BYTES + reserved)
    const { buffer } = this.#wire
    buffer.writeUInt32BE(STRUCTURED_REPLY_MAGIC, at)
    buffer.writeUInt16BE(isDone ? CHUNK_FLAG_DONE : 0, at + 4)
    buffer.writeUInt16BE(type, at + 6)
    buffer.writeUInt32BE(cookieHigh, at + 8)
    buffer.writeUInt32BE(cookieLow, at + 12)
    buffer.writeUInt32BE(payloadBytes, at + 16)
    return at + CHUNK_BYTES
  }

  #writeOffset(offset: number, at: number): void {
    this.#wire.buffer.writeUInt32BE(Math.floor(offset / WORD), at)
    this.#wire.buffer.writeUInt32BE(offset % WORD, at + 4)
  }
}
