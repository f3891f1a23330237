/**
 * Time, timers and randomness, as everything on the read and write paths gets them: a harness can put virtual time and a seed in their place
 * (virtual-clock.ts). Not for keys, salts or ids: those are `node:crypto`'s.
 */
import { setTimeout as sleep } from 'node:timers/promises'

export interface Clock {
  /** Milliseconds on a clock that never goes back; only differences mean anything. */
  now(): number
  /** Settles after at least that many milliseconds; rejects with `signal.reason` if aborted before. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>
  /** Calls `call` once, after at least that many milliseconds, unless the function that is returned was called before. */
  after(ms: number, call: () => void): () => void
  /** Uniform in [0, 1). */
  random(): number
}

export const systemClock: Clock = {
  now: () => performance.now(),
  async sleep(ms, signal) {
    try {
      await sleep(ms, undefined, { signal })
    } catch (error) {
      signal?.throwIfAborted()
      throw error
    }
  },
  after(ms, call) {
    const timer = setTimeout(call, ms)
    return () => clearTimeout(timer)
  },
  random: () => Math.random(),
}
