/** Memory's hits and misses have one unit: a look at a chunk. */
import { afterAll, beforeAll, expect, it } from 'vitest'
import { LocalEngine } from '../../src/engine/local.ts'
import { openThrough, type PushedImage, pushedImage } from '../fault/read-path.ts'

const RANGE_BYTES = 512 * 1024
let pushed: PushedImage

beforeAll(async () => {
  pushed = await pushedImage(6)
})
afterAll(() => pushed[Symbol.asyncDispose]())

it('counts each chunk that a read looks at, wherever it was found', async () => {
  await using engine = new LocalEngine({ memoryBytes: 8 * RANGE_BYTES, caches: [] })
  await using store = await openThrough(pushed.objects, pushed.keyring, engine)
  const image = (await store.open(pushed.id)).image('memory')
  const counts = async (): Promise<number[]> => {
    const { hits, misses } = (await engine.figures()).memory
    return [hits, misses]
  }
  await image.read(0, 3 * RANGE_BYTES)
  expect(await counts()).toEqual([0, 3])
  // The first three are there now, the others not.
  await image.read(0, 4 * RANGE_BYTES)
  expect(await counts()).toEqual([3, 4])
  await image.read(RANGE_BYTES, 2 * RANGE_BYTES)
  expect(await counts()).toEqual([5, 4])
  await Promise.all([1, 2, 3].map(() => image.read(4 * RANGE_BYTES, RANGE_BYTES)))
  expect(await counts()).toEqual([5, 5])
  expect((await engine.figures()).memory).not.toHaveProperty('latency')
})
