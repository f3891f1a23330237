/** Waiting with a bound for work that cannot be taken back. */
import { setTimeout as sleep } from 'node:timers/promises'

/** @returns false if `work`, which must not reject, goes on beyond that time */
export async function settledWithin(ms: number, work: Promise<unknown>): Promise<boolean> {
  const late = new AbortController()
  try {
    return await Promise.race([work.then(() => true), sleep(ms, false, late)])
  } finally {
    late.abort()
  }
}
