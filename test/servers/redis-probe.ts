/** Asks a cache and says in a word what came of it, so that tests of faults read like their titles. */
import { randomBytes } from 'node:crypto'
import type { SealedCache } from '../../src/cache.ts'
import { ThawError } from '../../src/errors.ts'
import { until } from './redis.ts'

/** A value under a random id. */
export interface Entry {
  readonly id: string
  readonly sealed: Buffer
}

export function entry(sizeBytes: number = 20_000): Entry {
  return { id: randomBytes(32).toString('hex'), sealed: randomBytes(sizeBytes) }
}

/** `hit`, `damaged` (other bytes), `miss`, or the code of a ThawError of L2. Everything else is thrown. */
export async function outcome(cache: SealedCache, { id, sealed }: Entry): Promise<string> {
  try {
    const bytes = await cache.get(id, sizeBytes => Buffer.alloc(sizeBytes))
    if (bytes === undefined) return 'miss'
    return Buffer.compare(bytes, sealed) === 0 ? 'hit' : 'damaged'
  } catch (error) {
    if (error instanceof ThawError && error.tier === 'l2') return error.code
    throw error
  }
}

/** Waits until a value is kept and served again. */
export async function untilServing(cache: SealedCache): Promise<void> {
  const probe = entry(100)
  await until(async () => (await cache.put(probe.id, probe.sealed)) && (await outcome(cache, probe)) === 'hit')
}

/** Puts that many values; they are all kept. */
export async function filled(cache: SealedCache, count: number, sizeBytes?: number): Promise<Entry[]> {
  const entries = Array.from({ length: count }, () => entry(sizeBytes))
  for (const { id, sealed } of entries) if (!(await cache.put(id, sealed))) throw new Error('a put was not kept')
  return entries
}

export async function outcomes(cache: SealedCache, entries: readonly Entry[]): Promise<string[]> {
  return Promise.all(entries.map(each => outcome(cache, each)))
}
