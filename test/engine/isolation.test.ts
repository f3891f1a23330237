/** Tenants that share an engine, and chunks: neither the end of one's snapshot nor his store's trouble is another's. */
import { randomFillSync } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { ChunkColumns } from '../../src/engine/chunk-table.ts'
import { LocalEngine } from '../../src/engine/local.ts'
import type { HeldSnapshot } from '../../src/engine.ts'
import { ThawError } from '../../src/errors.ts'
import type { ObjectStore } from '../../src/store.ts'
import { VirtualClock } from '../../src/testing.ts'
import { patchedStore } from '../patched-store.ts'
import { type MarkedStore, markedPages, markedStore, ROOT } from './marked-store.ts'

const ACME = { tenant: 'acme', restore: '1' }
const OTHER = { tenant: 'other', restore: '1' }
/** One less than there are numbers before those that were given back are used again. */
const FILLERS = 1023

let marked: MarkedStore
/** By object key: virtual time does not wait for files. */
const bodies = new Map<string, Uint8Array>()
beforeAll(async () => {
  marked = await markedStore(2, 1)
  for (const chunk of [0, 1]) {
    const { objectKey } = marked.table.at(chunk).sealed
    bodies.set(objectKey, await marked.objects.get(objectKey, { sizeMax: 2 ** 20 }))
  }
})
afterAll(() => marked[Symbol.asyncDispose]())

/** A store whose reads wait for `before`. */
function store(before: (signal?: AbortSignal) => Promise<void>): ObjectStore {
  return patchedStore(marked.objects, {
    getInto: async (key, target, { signal } = {}) => {
      await before(signal)
      target.set(bodies.get(key)!)
      return bodies.get(key)!.length
    },
  })
}

const hangs = (signal?: AbortSignal): Promise<void> =>
  new Promise((_, reject) => signal?.addEventListener('abort', () => reject(signal.reason)))

/** A snapshot of one chunk of the store. */
function columnsOf(chunk: number): ChunkColumns {
  const { segments, ids, keys, sealedBytes, pages } = marked.columns
  return {
    segments: [{ ...segments[0]!, count: 1 }],
    ids: ids.slice(32 * chunk, 32 * chunk + 32),
    keys: keys.slice(32 * chunk, 32 * chunk + 32),
    sealedBytes: sealedBytes.slice(chunk, chunk + 1),
    pages: pages.slice(chunk, chunk + 1),
  }
}

async function pagesOf(engine: LocalEngine, snapshot: HeldSnapshot): Promise<Buffer> {
  const { slot } = await snapshot.want(0)
  const pages = Buffer.from(engine.arena.pages(slot, 0, 1))
  engine.arena.unpin(slot)
  return pages
}

describe('a snapshot that is released while a chunk of it is asked for again', () => {
  it('neither gets nor puts pages where its number is another chunk’s by then', async () => {
    const clock = new VirtualClock()
    const engine = new LocalEngine({ memoryBytes: 0, caches: [], clock })
    let isDown = true
    const reads = await engine.openStore(
      store(async () => {
        if (isDown) throw new ThawError('UNAVAILABLE', 'down')
      }),
    )
    await reads.hold(
      {
        segments: [{ ...marked.columns.segments[0]!, count: FILLERS }],
        ids: randomFillSync(new Uint8Array(32 * FILLERS)),
        keys: randomFillSync(new Uint8Array(32 * FILLERS)),
        sealedBytes: new Uint32Array(FILLERS),
        pages: new Uint8Array(FILLERS).fill(1),
      },
      ROOT,
    )
    const released = await reads.hold(columnsOf(0), ROOT, ACME)
    const waiting = pagesOf(engine, released)
    // It has failed once, and waits.
    await clock.advance(0)
    released.release()
    await clock.advance(0)
    const next = await reads.hold(columnsOf(1), ROOT, OTHER)
    isDown = false
    expect((await clock.run(waiting)).equals(markedPages(0, 1))).toBe(true)
    expect((await clock.run(pagesOf(engine, next))).equals(markedPages(1, 1))).toBe(true)
    await clock.run(engine.close())
  })
})

describe('a chunk that a tenant waits for whose turn is far off', () => {
  it('is there for another as soon as it would be had he been the first to ask', async () => {
    const clock = new VirtualClock()
    const engine = new LocalEngine({ memoryBytes: 0, caches: [], clock, origin: { callsMax: 1 } })
    const reads = await engine.openStore(store(() => clock.sleep(30)))
    // The same bytes, under numbers of their own.
    const pages = Array.from({ length: 40 }, (_, number) => number + 2)
    const many = await Promise.all(pages.map(count => reads.hold({ ...columnsOf(0), pages: Uint8Array.of(count) }, ROOT, ACME)))
    const failing = many.map(snapshot => snapshot.want(0).catch((error: unknown) => error))
    const last = await reads.hold(columnsOf(1), ROOT, ACME)
    const acmes = pagesOf(engine, last)
    await clock.advance(1)
    const others = await last.lend(OTHER)
    expect((await clock.run(pagesOf(engine, others))).equals(markedPages(1, 1))).toBe(true)
    expect(clock.now()).toBeLessThanOrEqual(60)
    await clock.run(Promise.all([acmes, ...failing]))
    await clock.run(engine.close())
  })
})

describe('a chunk that two tenants read through stores of their own', () => {
  it('is not waited for where the other’s store hangs', async () => {
    const clock = new VirtualClock()
    const engine = new LocalEngine({ memoryBytes: 0, caches: [], clock })
    const open = async (objects: ObjectStore, tenant: string): Promise<HeldSnapshot> =>
      (await engine.openStore(objects)).hold(columnsOf(0), ROOT, { tenant, restore: '' })
    const gone = new AbortController()
    const hung = await Promise.all(['a', 'b', 'c'].map(tenant => open(store(hangs), tenant)))
    const waiting = hung.map(snapshot => snapshot.want(0, { signal: gone.signal }).catch((error: unknown) => error))
    await clock.advance(1)
    const good = await open(
      store(() => clock.sleep(30)),
      'd',
    )
    expect((await clock.run(pagesOf(engine, good))).equals(markedPages(0, 1))).toBe(true)
    expect(clock.now()).toBe(31)
    gone.abort(new EvalError('gone'))
    for (const failed of await clock.run(Promise.all(waiting))) expect(failed).toBeInstanceOf(EvalError)
    await clock.run(engine.close())
  })
})
