/**
 * The contract of a cache of sealed bytes: it may forget, and it may hold what is damaged, but nobody is ever harmed by that, because everything that comes out of
 * one is compared with its id. Implementations lie in `cache/`: disk, redis; `cache/tiered.ts` asks them in order, then the store.
 *
 * Like a store, a cache sees ids and ciphertext. It imports neither seal nor manifest, and that is an import rule (test/tidy.test.ts).
 *
 * A miss is `undefined`. Everything else that goes wrong is a ThawError with the cache's `tier`, in bounded time: it is counted, and the next tier is asked. A cache
 * that is down answers at once, without trying each time (a breaker).
 */
import type { Tier } from './errors.ts'
import type { CallOptions } from './store.ts'

/** Gives the memory for that many bytes; throws if there is none for so many. The bytes come to lie at its start. */
export type Allocate = (sizeBytes: number) => Uint8Array

export interface SealedCache extends AsyncDisposable {
  readonly tier: Extract<Tier, 'disk' | 'l2'>

  /** Names it in messages and figures: a path, a host and port; without credentials. */
  readonly name: string

  /**
   * The sealed bytes kept under an id (64 hex digits; of a chunk or of a manifest), not verified, in memory that `allocate` gave, or undefined. The
   * implementation never touches that memory after it settled; until then it may have written anything to it. What `allocate` throws passes through.
   */
  get(id: string, allocate: Allocate, options?: CallOptions): Promise<Uint8Array | undefined>

  /**
   * Keeps bytes that were verified. Resolves to whether they are kept now: false if the cache is full, down or has no room for so many.
   * `sealed` may be reused when this settles, whatever it comes to.
   */
  put(id: string, sealed: Uint8Array, options?: CallOptions): Promise<boolean>

  /** Forgets an id: what was there is bad, or is not wanted. Nothing to forget is no error. */
  evict(id: string, options?: CallOptions): Promise<void>

  /** Forgets everything of thaw's. Resolves to how many entries that were. */
  clear(options?: CallOptions): Promise<number>

  /** What it is and holds, for people. */
  describe(options?: CallOptions): Promise<CacheDescription>

  /** Ends all use and waits for what is under way; idempotent. Later calls reject with CLOSED. */
  close(): Promise<void>
}

export interface CacheDescription {
  readonly tier: SealedCache['tier']
  readonly name: string
  /** Whether it serves now. */
  readonly state: 'up' | 'down'
  /** Why it is down, or what somebody should change; undefined: all is well. */
  readonly remark: string | undefined
  readonly entries: number | undefined
  readonly bytes: number | undefined
  readonly bytesMax: number | undefined
  /** What is peculiar to the kind: name → value. */
  readonly details: Readonly<Record<string, string | number>>
}
