/**
 * A wire over a non-blocking socket of a pager. Data goes from where it lies to the socket, without a copy between; what the socket does not take is copied, and sent when it does.
 *
 * One reply alone goes out in two calls on a Unix socket: its header wakes the client, and the data is there when it has woken. Replies to several requests that came together
 * go out in one.
 */
import assert from 'node:assert/strict'
import type { Gathered } from '../../pager.ts'
import { ERRNO, type Native } from '../../util/native.ts'
import { REPLY_BYTES_MAX } from './replies.ts'
import { KEPT_BYTES, type SocketMemory } from './socket-memory.ts'
import { type ReplyBuffer, WIRE_BUFFER_BYTES, type Wire } from './wire.ts'

/** MSG_DONTWAIT and MSG_NOSIGNAL (<sys/socket.h>). */
const SEND_FLAGS = 0x40 | 0x4000
/** Data of one of several replies is copied up to here, where that spares a system call. */
const COPIED_BYTES_MAX = 16 * 1024

export class SocketWire implements Wire {
  readonly buffer: Buffer
  readonly #native: Native
  readonly #memory: SocketMemory
  readonly #replies: ReplyBuffer
  readonly #fd: number
  readonly #sendsHeaderApart: boolean
  /** Bytes [#start, #end) of it wait. */
  #kept: Buffer | undefined
  #start = 0
  #end = 0
  #isBroken = false

  constructor(native: Native, memory: SocketMemory, fd: number, { sendsHeaderApart }: { readonly sendsHeaderApart: boolean }) {
    this.#native = native
    this.#memory = memory
    this.#fd = fd
    this.#sendsHeaderApart = sendsHeaderApart
    this.#replies = memory.replies
    this.buffer = memory.replies.bytes
  }

  get isBlocked(): boolean {
    return this.#kept !== undefined
  }

  /** The peer is gone. */
  get isBroken(): boolean {
    return this.#isBroken
  }

  hasRoom(sizeBytes: number): boolean {
    return this.#end + sizeBytes + this.#reserved <= KEPT_BYTES - WIRE_BUFFER_BYTES
  }

  reserve(sizeBytes: number): number {
    return this.#replies.reserve(this, sizeBytes)
  }

  send(bytes: Gathered, isLast: boolean): void {
    const reserved = this.#reserved
    if (this.#kept !== undefined) {
      this.flush()
      this.#keepGathered(bytes, 0)
    } else if (!isLast && bytes.sizeBytes <= COPIED_BYTES_MAX && reserved + bytes.sizeBytes <= WIRE_BUFFER_BYTES) {
      const at = this.reserve(bytes.sizeBytes)
      bytes.copyTo(this.buffer.subarray(at, at + bytes.sizeBytes))
    } else if (isLast && this.#sendsHeaderApart && reserved <= REPLY_BYTES_MAX) {
      this.flush()
      if (this.#kept === undefined) this.#sendGathered(bytes, 0)
      else this.#keepGathered(bytes, 0)
    } else this.#sendGathered(bytes, reserved)
  }

  flush(): void {
    const reserved = this.#reserved
    if (reserved === 0) return
    this.#replies.clear()
    const sent = this.#kept === undefined ? this.#sentOf(this.#native.send(this.#fd, this.buffer, reserved, SEND_FLAGS)) : 0
    if (sent < reserved) this.#keep(sent, reserved)
  }

  /** Sends of what is kept as much as the socket takes. */
  drain(): void {
    const kept = this.#kept
    if (kept === undefined) return
    const rest = kept.subarray(this.#start, this.#end)
    this.#start += this.#sentOf(this.#native.send(this.#fd, rest, rest.length, SEND_FLAGS))
    if (this.#start === this.#end) this.#forgetKept()
  }

  /** Forgets what was not sent. */
  drop(): void {
    this.#replies.leave(this)
    this.#forgetKept()
  }

  #forgetKept(): void {
    if (this.#kept !== undefined) this.#memory.giveBackKept(this.#kept)
    this.#kept = undefined
    this.#start = 0
    this.#end = 0
  }

  get #reserved(): number {
    return this.#replies.reservedBy(this)
  }

  /** @param headerBytes that are reserved and go before the data */
  #sendGathered(bytes: Gathered, headerBytes: number): void {
    const memory = this.#memory
    this.#replies.clear()
    if (headerBytes > 0) bytes.setHeader(memory.repliesAddress, headerBytes)
    memory.setVectors(bytes.vectors, headerBytes > 0 ? 0 : 1, bytes.vectorCount)
    const sent = this.#sentOf(this.#native.sendmsg(this.#fd, memory.message, SEND_FLAGS))
    if (sent < headerBytes) this.#keep(sent, headerBytes)
    if (sent < headerBytes + bytes.sizeBytes) this.#keepGathered(bytes, Math.max(0, sent - headerBytes))
  }

  #sentOf(result: number): number {
    if (result >= 0) return result
    if (this.#native.errno() !== ERRNO.EAGAIN) this.#isBroken = true
    return 0
  }

  /** Keeps bytes [from, to) of `buffer`. */
  #keep(from: number, to: number): void {
    this.buffer.copy(this.#roomFor(to - from), 0, from, to)
  }

  #keepGathered(bytes: Gathered, from: number): void {
    bytes.copyTo(this.#roomFor(bytes.sizeBytes - from), from)
  }

  #roomFor(sizeBytes: number): Buffer {
    this.#kept ??= this.#memory.takeKept()
    const at = this.#end
    assert(at + sizeBytes <= KEPT_BYTES, 'more is kept for a peer than may be')
    this.#end += sizeBytes
    return this.#kept.subarray(at, this.#end)
  }
}
