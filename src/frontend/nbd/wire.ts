/**
 * What a session sends through, whatever carries it: a socket of a pager, or a stream of Node's, with TLS or without.
 *
 * Replies are put into `buffer` and leave together with `flush`, so that many small ones are one system call. What the peer does not take is kept, and the wire is *blocked*
 * until it has gone: a session then takes no further request, and so a peer that does not read costs no more than is kept.
 */
import assert from 'node:assert/strict'
import type { Gathered } from '../../pager.ts'

export interface Wire {
  /** Replies that are not sent yet. Belongs to the wire that reserved in it until `flush`. */
  readonly buffer: Buffer
  /** Makes room for that many bytes, at most WIRE_BUFFER_BYTES. @returns where in `buffer` they begin */
  reserve(sizeBytes: number): number
  /**
   * Sends these after all that was reserved. The bytes are not looked at after it returns.
   * @param isLast nothing else is about to be sent: they leave at once
   */
  send(bytes: Gathered, isLast: boolean): void
  /** Sends what was reserved. */
  flush(): void
  /** Bytes are kept that the peer has not taken yet. */
  readonly isBlocked: boolean
  /** While it is blocked: whether it would keep so many bytes more. */
  hasRoom(sizeBytes: number): boolean
}

/** Of `buffer`: the replies of one turn. */
export const WIRE_BUFFER_BYTES: number = 2 ** 17

/** The buffer of wires that have their turns one after the other. It is empty between turns. */
export class ReplyBuffer {
  readonly bytes: Buffer = Buffer.from(new ArrayBuffer(WIRE_BUFFER_BYTES))
  #owner: Wire | undefined
  #reserved = 0

  /** How much of it is reserved by this wire. What is another's would go to the wrong peer. */
  reservedBy(wire: Wire): number {
    assert(this.#reserved === 0 || this.#owner === wire, 'replies of another connection were not flushed')
    return this.#reserved
  }

  /** @returns where in `bytes` */
  reserve(wire: Wire, sizeBytes: number): number {
    if (this.reservedBy(wire) + sizeBytes > WIRE_BUFFER_BYTES) wire.flush()
    const at = this.#reserved
    this.#owner = wire
    this.#reserved = at + sizeBytes
    return at
  }

  clear(): void {
    this.#reserved = 0
  }

  /** A wire ends, perhaps in the middle of its turn. */
  leave(wire: Wire): void {
    if (this.#owner !== wire) return
    this.#owner = undefined
    this.#reserved = 0
  }
}
