/**
 * A cache in memory that misbehaves as a plan says, in the time of a clock, for tests of what reads through it. It keeps to the contract of a cache: every outcome comes in
 * bounded time, and what goes wrong is a miss, damaged bytes, or a ThawError with its tier.
 *
 * The fault model. A read may fail at once, time out, find nothing, find bytes of which one bit is flipped, or find too few. A put may not be kept. Both may be late. Bytes
 * that lie there may rot. The entries are handed in, so that they outlive a cache that is closed.
 */
import type { Allocate, CacheDescription, SealedCache } from '../../src/cache.ts'
import { ThawError } from '../../src/errors.ts'
import type { CallOptions } from '../../src/store.ts'
import type { Clock } from '../../src/testing.ts'

export type CacheFault = 'fail' | 'timeout' | 'miss' | 'flip' | 'truncate' | 'late'

export interface CacheCall {
  readonly method: 'get' | 'put' | 'evict'
  readonly id: string
}

export interface FakeCacheOptions {
  readonly clock: Clock
  readonly entries?: Map<string, Buffer>
  /** Of every call. */
  readonly delayMs?: number
  /** Told of every call as it begins. */
  readonly onCall?: (call: CacheCall) => void
}

const TIMEOUT_MS = 250
const LATE_MS = 200

export class FakeCache implements SealedCache {
  readonly tier: 'disk' | 'l2'
  readonly name: string
  readonly entries: Map<string, Buffer>
  /** What goes wrong with a call; undefined: nothing. */
  plan: (call: CacheCall) => CacheFault | undefined = () => undefined
  puts = 0
  putBytesUnderWayMax = 0
  closed = false
  #putBytesUnderWay = 0
  readonly #options: FakeCacheOptions

  constructor(tier: 'disk' | 'l2', options: FakeCacheOptions) {
    this.tier = tier
    this.name = `fake ${tier}`
    this.entries = options.entries ?? new Map()
    this.#options = options
  }

  async get(id: string, allocate: Allocate, { signal }: CallOptions = {}): Promise<Uint8Array | undefined> {
    const fault = await this.#begin({ method: 'get', id }, signal)
    const kept = this.entries.get(id)
    if (kept === undefined || fault === 'miss') return undefined
    const sizeBytes = fault === 'truncate' ? Math.floor(this.#options.clock.random() * kept.length) : kept.length
    const target = allocate(sizeBytes)
    target.set(kept.subarray(0, sizeBytes))
    if (fault === 'flip') flipBit(target.subarray(0, sizeBytes), this.#options.clock)
    return target.subarray(0, sizeBytes)
  }

  async put(id: string, sealed: Uint8Array, { signal }: CallOptions = {}): Promise<boolean> {
    this.puts++
    this.#putBytesUnderWay += sealed.length
    this.putBytesUnderWayMax = Math.max(this.putBytesUnderWayMax, this.#putBytesUnderWay)
    try {
      const fault = await this.#begin({ method: 'put', id }, signal)
      if (fault !== undefined && fault !== 'late') return false
      this.entries.set(id, Buffer.from(sealed))
      return true
    } finally {
      this.#putBytesUnderWay -= sealed.length
    }
  }

  async evict(id: string, { signal }: CallOptions = {}): Promise<void> {
    await this.#begin({ method: 'evict', id }, signal)
    this.entries.delete(id)
  }

  async clear(): Promise<number> {
    const { size } = this.entries
    this.entries.clear()
    return size
  }

  async describe(): Promise<CacheDescription> {
    const { tier, name, entries } = this
    return { tier, name, state: 'up', remark: undefined, entries: entries.size, bytes: undefined, bytesMax: undefined, details: {} }
  }

  /** Flips a bit of what lies under an id. */
  rot(id: string): void {
    const kept = this.entries.get(id)
    if (kept !== undefined) flipBit(kept, this.#options.clock)
  }

  async close(): Promise<void> {
    this.closed = true
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #begin(call: CacheCall, signal: AbortSignal | undefined): Promise<CacheFault | undefined> {
    const { clock, delayMs = 0, onCall } = this.#options
    signal?.throwIfAborted()
    if (this.closed) throw new ThawError('CLOSED', `${this.name} is closed`, { tier: this.tier })
    onCall?.(call)
    const fault = this.plan(call)
    if (fault === 'fail') throw new ThawError('UNAVAILABLE', `fault on purpose: ${call.method}`, { tier: this.tier })
    const ms = fault === 'timeout' ? TIMEOUT_MS : fault === 'late' ? LATE_MS : delayMs
    if (ms > 0) await clock.sleep(ms, signal)
    if (fault === 'timeout') throw new ThawError('TIMEOUT', `fault on purpose: ${call.method}`, { tier: this.tier })
    return fault
  }
}

function flipBit(bytes: Uint8Array, clock: Clock): void {
  if (bytes.length > 0) bytes[Math.floor(clock.random() * bytes.length)]! ^= 1 << Math.floor(clock.random() * 8)
}
