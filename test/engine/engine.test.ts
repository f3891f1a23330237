/** The contract of an engine, run by the one on the caller's thread and by the one on a worker; and what the second has besides: a thread that can die. */
import { hash } from 'node:crypto'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { PAGE_BYTES } from '../../src/chunk.ts'
import { RemoteEngine, startThread } from '../../src/engine/remote.ts'
import { type EngineOptions, startEngine } from '../../src/engine/start.ts'
import type { Engine, EngineStore, HeldSnapshot } from '../../src/engine.ts'
import { ThawError } from '../../src/errors.ts'
import { ImageReader } from '../../src/reader.ts'
import { Urgency } from '../../src/util/urgency.ts'
import { codeOf, codeOfAsync } from '../code-of.ts'
import { type MarkedStore, markedPages, markedStore, ROOT, sealedIn, wholeImage } from './marked-store.ts'

const CHUNKS = 40
const PAGES = 2

let marked: MarkedStore
let engine: Engine
let store: EngineStore
let held: HeldSnapshot

/** An id that no object has, at a place where one could be. */
const missing = { id: 'e'.repeat(64), objectKey: `roots/${ROOT}/manifests/${'e'.repeat(64)}`, sizeBytes: 10 }

function optionsOf(dir: string): EngineOptions {
  return { memoryBytes: 0, disk: { path: join(dir, 'cache'), sizeBytes: 2 ** 24 } }
}

async function open(start: (options: EngineOptions) => Promise<Engine>): Promise<void> {
  marked = await markedStore(CHUNKS, PAGES)
  engine = await start(optionsOf(marked.dir))
  store = await engine.openStore(marked.objects)
  held = await store.hold(marked.columns, ROOT)
}

async function close(): Promise<void> {
  await engine.close()
  await marked[Symbol.asyncDispose]()
}

function pinned(): number[] {
  return [...new Int32Array(engine.arena.memory.pins)].filter(pins => pins !== 0)
}

describe.each([
  { name: 'on main', start: (options: EngineOptions): Promise<Engine> => startEngine(options) },
  { name: 'on a worker', start: (options: EngineOptions): Promise<Engine> => RemoteEngine.over(startThread(options)) },
])('an engine $name', ({ start }) => {
  beforeEach(() => open(start))
  afterEach(close)

  it('brings every chunk into the arena, pinned, however few fit', async () => {
    for (let chunk = 0; chunk < CHUNKS; chunk++) {
      const { slot, tier } = await held.want(chunk)
      expect(tier).toBe('origin')
      expect(engine.arena.pages(slot, 0, PAGES).equals(markedPages(chunk, PAGES))).toBe(true)
      expect((await held.want(chunk)).tier).toBe('memory')
      engine.arena.unpin(slot)
      engine.arena.unpin(slot)
    }
    expect(pinned()).toEqual([])
    const { memory, origin } = await engine.figures()
    expect([memory.chunks, origin.hits]).toEqual([memory.chunksMax, CHUNKS])
  })

  it('lets readers of this thread find what is there, and counts what they found', async () => {
    const reader = new ImageReader(wholeImage(marked.columns, held.numbers), engine.arena)
    const target = Buffer.alloc(PAGE_BYTES)
    expect(reader.tryReadInto(target, 3 * PAGE_BYTES)).toBe(0)
    await reader.readInto(held, target, 3 * PAGE_BYTES, {})
    expect(target.equals(markedPages(1, PAGES).subarray(PAGE_BYTES))).toBe(true)
    expect(reader.tryReadInto(target, 3 * PAGE_BYTES)).toBe(PAGE_BYTES)
    engine.countHits(reader.chunksRead, PAGE_BYTES)
    expect((await engine.figures()).memory).toMatchObject({ hits: 1, bytes: PAGE_BYTES, misses: 1 })
  })

  it('says how late its thread is for what is due', async () => {
    const count = async (): Promise<number> => (await engine.figures()).engine.delay.count
    await expect.poll(count).toBeGreaterThan(0)
  })

  it('fetches once what many want at a time', async () => {
    const all = await Promise.all(Array.from({ length: 2000 }, (_, want) => held.want(want % 8)))
    expect((await engine.figures()).origin.hits).toBe(8)
    for (const { slot } of all) engine.arena.unpin(slot)
    expect(pinned()).toEqual([])
  })

  it('takes a cancelled want for none', async () => {
    const controller = new AbortController()
    const wants = Array.from({ length: 12 }, (_, chunk) => codeOfAsync(() => held.want(chunk, { signal: controller.signal })))
    controller.abort(new RangeError('gone'))
    expect(new Set(await Promise.all(wants))).toEqual(new Set(['RangeError']))
    expect(await codeOfAsync(() => held.want(1, { signal: controller.signal }))).toBe('RangeError')
    const { slot } = await held.want(1)
    engine.arena.unpin(slot)
    await expect.poll(pinned).toEqual([])
  })

  it('makes a prefetch a demand when it is raised', async () => {
    const urgency = new Urgency('prefetch')
    const wants = Array.from({ length: 12 }, (_, chunk) => held.want(chunk, { urgency }))
    urgency.raise()
    for (const { slot } of await Promise.all(wants)) engine.arena.unpin(slot)
    expect(pinned()).toEqual([])
  })

  it('says which chunk could not be had, and why', async () => {
    const { objectKey } = marked.table.at(5).sealed
    await marked.objects.delete(objectKey)
    await expect(held.want(5)).rejects.toMatchObject({ code: 'NOT_FOUND', tier: 'origin' })
    await marked.objects.put(objectKey, Buffer.alloc(marked.columns.sealedBytes[5]!))
    await marked.objects.sync()
    await expect(held.want(5)).rejects.toMatchObject({ code: 'CORRUPT', tier: 'origin', object: objectKey })
    expect(await codeOfAsync(() => held.want(CHUNKS))).toBe('RangeError')
  })

  it('gives objects by their hash, as memory of one’s own', async () => {
    const manifest = Buffer.from('a manifest')
    const id = hash('sha256', manifest)
    await marked.objects.put(`roots/${ROOT}/manifests/${id}`, manifest)
    await marked.objects.sync()
    expect(Buffer.from(await store.get(id, `roots/${ROOT}/manifests/${id}`, { sizeMax: 100 }))).toEqual(manifest)
    expect(await codeOfAsync(() => store.get(missing.id, missing.objectKey, { sizeMax: 100 }))).toBe('NOT_FOUND')
    const signal = AbortSignal.abort(new RangeError('gone'))
    expect(await codeOfAsync(() => store.get(id, missing.objectKey, { sizeMax: 100, signal }))).toBe('RangeError')
  })

  it('lends sealed bytes, and asks the next tier when they are found bad', async () => {
    const chunk = marked.table.at(3)
    const sealed = await sealedIn(marked.objects, chunk)
    expect(await store.prime(chunk.sealed.id, sealed, ['disk'])).toBe(true)
    const tiers: string[] = []
    const given = await store.withSealed(chunk.sealed, ({ bytes, tier }) => {
      tiers.push(tier)
      if (tier === 'disk') throw new ThawError('CORRUPT', 'bad, says the test')
      return Buffer.from(bytes)
    })
    expect([tiers, given.equals(sealed)]).toEqual([['disk', 'origin'], true])
    await engine.settled()
    const { disk } = await engine.figures()
    expect(disk).toMatchObject({ corrupt: 1, healed: 1 })
    const bad = (): never => {
      throw new ThawError('CORRUPT', 'bad, says the test')
    }
    await expect(store.withSealed(chunk.sealed, bad)).rejects.toMatchObject({
      code: 'CORRUPT',
      object: chunk.sealed.objectKey,
      tier: 'origin',
    })
  })

  it('gives back what looking at lent bytes gave or threw, and waits for a look that has begun', async () => {
    const { sealed } = marked.table.at(4)
    const thrown = new Error('the test’s own')
    await expect(store.withSealed(sealed, () => Promise.reject(thrown))).rejects.toBe(thrown)
    expect(await store.withSealed(sealed, () => undefined)).toBe(undefined)
    const controller = new AbortController()
    let looked = false
    const look = async (): Promise<void> => {
      controller.abort(new RangeError('gone'))
      await turn()
      looked = true
    }
    await store.withSealed(sealed, look, { signal: controller.signal }).catch(() => undefined)
    expect(looked).toBe(true)
    expect(await codeOfAsync(() => store.withSealed(missing, () => 1))).toBe('NOT_FOUND')
  })

  it('clears and describes its caches', async () => {
    const { slot } = await held.want(1)
    engine.arena.unpin(slot)
    await engine.settled()
    expect(await engine.describe()).toMatchObject([{ tier: 'disk', state: 'up', entries: 1 }])
    expect(await engine.clear(['l2'])).toEqual([])
    expect(await engine.clear(['disk'])).toMatchObject([{ tier: 'disk', entries: 1 }])
  })

  it('never gives a handle twice, and knows none that was released', async () => {
    const other = await store.hold(marked.columns, ROOT)
    expect([...other.numbers]).toEqual([...held.numbers])
    held.release()
    held.release()
    expect(await codeOfAsync(() => held.want(1))).toBe('CLOSED')
    const { slot } = await other.want(1)
    engine.arena.unpin(slot)
    expect(new Set([held.handle, other.handle, (await store.hold(marked.columns, ROOT)).handle]).size).toBe(3)
  })

  it('lends handles of one snapshot, each good until it is released, whichever goes first', async () => {
    const restore = await held.lend({ tenant: 'acme', restore: 'r1' })
    const other = await restore.lend({ tenant: 'acme', restore: 'r2' })
    expect(new Set([held.handle, restore.handle, other.handle]).size).toBe(3)
    expect([...restore.numbers]).toEqual([...held.numbers])
    held.release()
    restore.release()
    expect(await codeOfAsync(() => held.lend({ tenant: '', restore: '' }))).toBe('CLOSED')
    expect(await codeOfAsync(() => restore.want(1))).toBe('CLOSED')
    engine.arena.unpin((await other.want(1)).slot)
    other.release()
    expect(await codeOfAsync(() => other.want(1))).toBe('CLOSED')
  })

  it('closes with a store what is under way in it', async () => {
    const wants = Array.from({ length: 12 }, (_, chunk) => codeOfAsync(() => held.want(chunk)))
    const lends = codeOfAsync(() => store.withSealed(marked.table.at(20).sealed, () => 1))
    await store.close()
    expect(new Set([...(await Promise.all(wants)), await lends])).toEqual(new Set(['CLOSED']))
    expect(await codeOfAsync(() => held.want(1))).toBe('CLOSED')
    expect(await codeOfAsync(() => store.hold(marked.columns, ROOT))).toBe('CLOSED')
    expect(await codeOfAsync(() => held.lend({ tenant: '', restore: '' }))).toBe('CLOSED')
    const again = await (await engine.openStore(marked.objects)).hold(marked.columns, ROOT)
    engine.arena.unpin((await again.want(1)).slot)
    await expect.poll(pinned).toEqual([])
  })

  it('closes, once and for all', async () => {
    const wants = Array.from({ length: 12 }, (_, chunk) => codeOfAsync(() => held.want(chunk)))
    await Promise.all([engine.close(), engine.close()])
    expect(new Set(await Promise.all(wants))).toEqual(new Set(['CLOSED']))
    expect(await codeOfAsync(() => held.want(1))).toBe('CLOSED')
    expect(await codeOfAsync(() => engine.openStore(marked.objects))).toBe('CLOSED')
    expect(await codeOfAsync(() => engine.openLine('message'))).toBe('CLOSED')
    await store.close()
  })
})

describe('the thread of an engine', () => {
  it('says why it cannot start', async () => {
    const start = (options: Partial<EngineOptions>) => codeOfAsync(() => RemoteEngine.over(startThread({ memoryBytes: 0, ...options })))
    expect(await start({ disk: { path: '/', sizeBytes: -1 } })).toBe('RangeError')
    expect(await start({ l2: { urls: ['http://nowhere'] } })).toBe('TypeError')
  })

  it('that dies fails what is under way and all that comes, and nothing hangs', async () => {
    let worker: ReturnType<typeof startThread> | undefined
    await open(() => {
      worker = startThread({ memoryBytes: 0 })
      return RemoteEngine.over(worker)
    })
    const line = await engine.openLine('message')
    const wants = Array.from({ length: 1500 }, (_, want) => codeOfAsync(() => held.want(want % CHUNKS)))
    const calls = [
      codeOfAsync(() => engine.figures()),
      codeOfAsync(() => store.get(missing.id, missing.objectKey, { sizeMax: 100 })),
      codeOfAsync(() => store.withSealed(marked.table.at(1).sealed, () => 1)),
    ]
    await worker!.terminate()
    // Some may have been answered before it died.
    const outcomes = new Set(await Promise.all([...wants, ...calls]))
    expect(outcomes.has('UNAVAILABLE')).toBe(true)
    expect([...outcomes].filter(code => code !== 'UNAVAILABLE' && code !== undefined)).toEqual([])
    expect(await codeOfAsync(() => held.want(1))).toBe('UNAVAILABLE')
    expect(await codeOfAsync(() => store.hold(marked.columns, ROOT))).toBe('UNAVAILABLE')
    expect(await codeOfAsync(() => engine.openLine('eventfd'))).toBe('UNAVAILABLE')
    await line.close()
    await store.close()
    await close()
  })

  it('that dies before it says a word is an error of the start', async () => {
    const worker = startThread({ memoryBytes: 0 })
    const engine = codeOfAsync(() => RemoteEngine.over(worker))
    await worker.terminate()
    expect(await engine).toBe('UNAVAILABLE')
    expect(codeOf(() => worker.postMessage(null))).toBe(undefined)
  })
})
