import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { LocalEngine } from '../src/engine/local.ts'
import type { PushOptions, PushResult } from '../src/index.ts'
import { openThrough, type PushedImage, pushedImage, sparseImage } from './fault/read-path.ts'
import { type MapCache, mapCache } from './map-cache.ts'
import { pieces } from './small-store.ts'

const RANGES = 5

let base: PushedImage
let disk: MapCache
let l2: MapCache

beforeAll(async () => {
  base = await pushedImage(1)
})

beforeEach(() => {
  disk = mapCache('disk')
  l2 = mapCache('l2')
})

afterAll(() => base[Symbol.asyncDispose]())

async function push(seed: number, options: PushOptions, caches: readonly MapCache[] = [disk, l2]): Promise<PushResult> {
  await using engine = new LocalEngine({ memoryBytes: 0, caches })
  await using store = await openThrough(base.objects, base.keyring, engine)
  return await store.push({ layer: 'os', images: { memory: { stream: pieces(sparseImage(RANGES, seed)) } } }, options)
}

describe('push with prime', () => {
  it('gives L2, and only that, the chunks and the manifest', async () => {
    const { id, counts, warnings } = await push(2, { prime: true })
    expect(counts).toMatchObject({ storedChunks: RANGES, primedChunks: RANGES, primeFailures: 0 })
    expect(warnings).toEqual([])
    expect(l2.entries.size).toBe(RANGES + 1)
    expect(l2.entries.has(id)).toBe(true)
    expect(disk.entries.size).toBe(0)
  })

  it('gives it what the next reader needs from nowhere else', async () => {
    const { id } = await push(3, { prime: true })
    await using engine = new LocalEngine({ memoryBytes: 0, caches: [l2] })
    await using store = await openThrough(base.objects, base.keyring, engine)
    await using snapshot = await store.open(id)
    const image = snapshot.image('memory')
    expect(Buffer.compare(await image.read(0, image.sizeBytes), sparseImage(RANGES, 3))).toBe(0)
    expect((await store.stats()).origin.hits).toBe(0)
  })

  it('primes what was found in the store as well', async () => {
    await push(4, {})
    const { counts } = await push(4, { prime: true })
    expect(counts).toMatchObject({ foundChunks: RANGES, storedChunks: 0, primedChunks: RANGES })
  })

  it('never fails because of the cache, and says what it did not keep', async () => {
    l2.full = true
    const { counts, warnings } = await push(5, { prime: true })
    expect(counts).toMatchObject({ storedChunks: RANGES, primedChunks: 0, primeFailures: RANGES + 1 })
    expect(warnings).toHaveLength(1)
  })

  it('is refused before anything is stored if there is no L2', async () => {
    await expect(push(6, { prime: true }, [disk])).rejects.toThrow(TypeError)
    expect((await push(6, {})).counts.foundChunks).toBe(0)
  })
})

describe('push without prime', () => {
  it('leaves the caches alone', async () => {
    const { counts } = await push(7, {})
    expect(counts).toMatchObject({ primedChunks: 0, primeFailures: 0 })
    expect([disk.entries.size, l2.entries.size]).toEqual([0, 0])
  })
})
