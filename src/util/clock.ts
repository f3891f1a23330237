/**
 * Time, timers and randomness, as everything on the read and write paths gets them: a harness can put virtual time and a seed in their place
 * (virtual-clock.ts). Not for keys, salts or ids: those are `node:crypto`'s.
 */
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

/** The longest wait of `setTimeout`, 24.8 days: it takes a longer one for one millisecond. */
const TIMEOUT_MS_MAX = 2 ** 31 - 1

function after(ms: number, call: () => void): () => void {
  let timer: NodeJS.Timeout
  const wait = (leftMs: number): void => {
    const nextMs = Math.min(leftMs, TIMEOUT_MS_MAX)
    timer = setTimeout(() => (nextMs < leftMs ? wait(leftMs - nextMs) : call()), nextMs)
  }
  wait(ms)
  return () => clearTimeout(timer)
}

export const systemClock: Clock = {
  now: () => performance.now(),
  async sleep(ms, signal) {
    signal?.throwIfAborted()
    await new Promise<void>((resolve, reject) => {
      const callOff = after(ms, () => {
        signal?.removeEventListener('abort', onAbort)
        resolve()
      })
      const onAbort = (): void => {
        callOff()
        reject(signal!.reason)
      }
      signal?.addEventListener('abort', onAbort, { once: true })
    })
  },
  after,
  random: () => Math.random(),
}
