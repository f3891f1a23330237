/** Many readers of little: each chunk is fetched once, the store never sees more than the limit, and everybody gets what he asked for. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { LocalEngine } from '../../src/engine/local.ts'
import { openObjectStore } from '../../src/index.ts'
import type { ObjectStore } from '../../src/store.ts'
import { VirtualClock } from '../../src/testing.ts'
import { countingStore } from '../fault/counting-store.ts'
import { allObjects } from '../fault/memory-store.ts'
import { openThrough, type PushedImage, pushedImage } from '../fault/read-path.ts'
import { patchedStore } from '../patched-store.ts'

const RANGES = 32
const RANGE_BYTES = 512 * 1024

let pushed: PushedImage
let dir: string
let directory: ObjectStore

beforeAll(async () => {
  pushed = await pushedImage(RANGES)
  dir = await mkdtemp(join(tmpdir(), 'thaw-flight-'))
  directory = await openObjectStore(dir)
  for (const [key, body] of await allObjects(pushed.objects)) await directory.put(key, body)
  await directory.sync()
})
afterAll(async () => {
  await directory.close()
  await rm(dir, { recursive: true })
  await pushed[Symbol.asyncDispose]()
})

describe('64 readers of one cold snapshot', () => {
  it('fetch each chunk from a directory once, each through a snapshot of its own', async () => {
    const { objects, reads } = countingStore(directory)
    await using engine = new LocalEngine({ memoryBytes: 2 * RANGES * RANGE_BYTES, caches: [], origin: { hedge: false } })
    const store = await openThrough(objects, pushed.keyring, engine)
    const snapshots = await Promise.all(Array.from({ length: 64 }, () => store.open(pushed.id)))
    reads.clear()
    const images = await Promise.all(snapshots.map(snapshot => snapshot.image('memory').read(0, pushed.image.length)))
    for (const image of images) expect(pushed.image.equals(image)).toBe(true)
    expect([reads.size, new Set(reads.values())]).toEqual([RANGES, new Set([1])])
    expect((await engine.figures()).origin).toMatchObject({ errors: 0, underWay: 0 })
  })

  it('read its manifest once if they open it at a time', async () => {
    const { objects, reads } = countingStore(directory)
    await using engine = new LocalEngine({ memoryBytes: 0, caches: [] })
    const store = await openThrough(objects, pushed.keyring, engine)
    reads.clear()
    await Promise.all(Array.from({ length: 64 }, () => store.open(pushed.id)))
    expect([...reads].filter(([key]) => key.includes('/manifests/')).map(([, count]) => count)).toEqual([1])
  })
})

describe('256 readers at a time', () => {
  it.each([1, 4])('never exceed a limit of %d reads, and all get their bytes', async callsMax => {
    const clock = new VirtualClock(callsMax)
    let underWay = 0
    let underWayMax = 0
    const objects = patchedStore(pushed.objects, {
      getInto: async (key, target) => {
        underWayMax = Math.max(underWayMax, ++underWay)
        await clock.sleep(1 + clock.random() * 20)
        underWay--
        return await pushed.objects.getInto(key, target)
      },
    })
    const engine = new LocalEngine({ memoryBytes: 0, caches: [], origin: { callsMax }, clock })
    const store = await clock.run(openThrough(objects, pushed.keyring, engine))
    const image = (await clock.run(store.open(pushed.id))).image('memory')
    const offsets = Array.from({ length: 256 }, () => Math.floor(clock.random() * RANGES) * RANGE_BYTES)
    const reads = await clock.run(Promise.all(offsets.map(offset => image.read(offset, RANGE_BYTES))))
    reads.forEach((bytes, index) => {
      expect(pushed.image.subarray(offsets[index]!, offsets[index]! + RANGE_BYTES).equals(bytes)).toBe(true)
    })
    const { origin } = await engine.figures()
    expect([underWayMax, origin.underWayMax, origin.underWay]).toEqual([callsMax, callsMax, 0])
    await clock.run(engine.close())
  })
})
