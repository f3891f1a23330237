import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { LocalEngine } from '../src/engine/local.ts'
import type { CacheTier, SnapshotStore, WarmProgress } from '../src/index.ts'
import { codeOfAsync } from './code-of.ts'
import { openThrough, type PushedImage, pushedImage } from './fault/read-path.ts'
import { type MapCache, mapCache } from './map-cache.ts'

const RANGES = 9

let pushed: PushedImage
let disk: MapCache
let l2: MapCache

beforeAll(async () => {
  pushed = await pushedImage(RANGES)
})

beforeEach(() => {
  disk = mapCache('disk')
  l2 = mapCache('l2')
})

afterAll(() => pushed[Symbol.asyncDispose]())

/** Over caches that outlive it. */
async function withStore<T>(use: (store: SnapshotStore) => Promise<T>, caches: readonly MapCache[] = [disk, l2]): Promise<T> {
  await using engine = new LocalEngine({ memoryBytes: 0, caches })
  await using store = await openThrough(pushed.objects, pushed.keyring, engine)
  return await use(store)
}

const warm = (tiers?: readonly CacheTier[]) => withStore(store => store.warm(pushed.id, { tiers }))

describe('warm', () => {
  it('puts the manifest and every chunk into all tiers', async () => {
    const { id, tiers, chunks, totalChunks, bytes, totalBytes, servedBytes, primed, primeFailures } = await warm()
    expect({ id, tiers, chunks, primed, primeFailures }).toEqual({
      id: pushed.id,
      tiers: ['disk', 'l2'],
      chunks: RANGES,
      primed: RANGES + 1,
      primeFailures: 0,
    })
    expect([totalChunks, totalBytes]).toEqual([chunks, bytes])
    expect(servedBytes).toEqual({ disk: 0, l2: 0, origin: bytes })
    for (const { entries } of [disk, l2]) {
      expect(entries.size).toBe(RANGES + 1)
      expect(entries.has(pushed.id)).toBe(true)
    }
  })

  it('fetches from the nearest tier, and gives the others what they lack', async () => {
    await withStore(store => store.warm(pushed.id), [l2])
    const { servedBytes, bytes } = await warm()
    expect(servedBytes).toEqual({ disk: 0, l2: bytes, origin: 0 })
    l2.entries.clear()
    const again = await warm(['l2'])
    expect(again.servedBytes).toEqual({ disk: bytes, l2: 0, origin: 0 })
    expect(l2.entries.size).toBe(RANGES + 1)
  })

  it('replaces a bad copy, and trusts none', async () => {
    await warm()
    const [id, good] = [...l2.entries].find(([id]) => id !== pushed.id)!
    l2.entries.set(id, Buffer.alloc(good.length))
    disk.entries.delete(id)
    const { servedBytes } = await warm()
    expect(servedBytes.origin).toBe(good.length)
    expect(l2.entries.get(id)).toEqual(good)
    expect(disk.entries.get(id)).toEqual(good)
  })

  it.each([
    ['disk', 'l2', 'l2'],
    ['l2', 'disk', 'origin'],
  ] as const)('heals the bad copy in %s, although only %s is chosen', async (bad, chosen, servedBy) => {
    await warm()
    const spoilt = { disk, l2 }[bad].entries
    const [id, good] = [...spoilt].find(([id]) => id !== pushed.id)!
    spoilt.set(id, Buffer.alloc(good.length))
    disk.entries.set(id, bad === 'disk' ? spoilt.get(id)! : Buffer.alloc(1))
    const { servedBytes } = await warm([chosen])
    expect(servedBytes[servedBy]).toBeGreaterThanOrEqual(good.length)
    expect([disk.entries.get(id), l2.entries.get(id)]).toEqual([good, good])
  })

  it('counts what a tier does not keep', async () => {
    l2.full = true
    const { primed, primeFailures } = await warm()
    expect([primed, primeFailures]).toEqual([0, RANGES + 1])
    expect(disk.entries.size).toBe(RANGES + 1)
  })

  it('reports progress up to the end', async () => {
    const reports: WarmProgress[] = []
    await withStore(store => store.warm(pushed.id, { onProgress: progress => reports.push(progress) }))
    expect(reports.at(-1)).toMatchObject({ chunks: RANGES, totalChunks: RANGES })
  })

  it('ends with the reason of its signal', async () => {
    const reason = new Error('enough')
    await expect(withStore(store => store.warm(pushed.id, { signal: AbortSignal.abort(reason) }))).rejects.toBe(reason)
  })

  it('needs a cache of the tier', async () => {
    await expect(withStore(store => store.warm(pushed.id), [])).rejects.toThrow(TypeError)
    await expect(withStore(store => store.warm(pushed.id, { tiers: ['disk'] }), [l2])).rejects.toThrow(TypeError)
  })

  it('fails for a snapshot that is not there', async () => {
    expect(await codeOfAsync(() => withStore(store => store.warm('f'.repeat(64))))).toBe('NOT_FOUND')
  })
})
