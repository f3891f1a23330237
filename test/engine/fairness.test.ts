/** Who gets what is scarce in an engine, and in which order, in virtual time: the calls of the tiers are counted, no time is measured. */
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { LocalEngine, type LocalEngineOptions } from '../../src/engine/local.ts'
import { ChunkNumbers } from '../../src/engine/numbers.ts'
import type { HeldSnapshot, Pinned, WantOptions } from '../../src/engine.ts'
import { VirtualClock } from '../../src/testing.ts'
import { Urgency } from '../../src/util/urgency.ts'
import { codeOfAsync } from '../code-of.ts'
import { FakeCache } from '../fault/fake-cache.ts'
import { patchedStore } from '../patched-store.ts'
import { type MarkedStore, markedStore, ROOT } from './marked-store.ts'

const CHUNKS = 1100
const READ_MS = 30
const STORE_PLACES = 32

let marked: MarkedStore
/** By object key: virtual time does not wait for files. */
const bodies = new Map<string, Uint8Array>()
beforeAll(async () => {
  marked = await markedStore(CHUNKS, 1)
  for (let chunk = 0; chunk < CHUNKS; chunk++) bodies.set(keyOf(chunk), await marked.objects.get(keyOf(chunk), { sizeMax: 2 ** 20 }))
})
afterAll(() => marked[Symbol.asyncDispose]())

interface Bench {
  readonly clock: VirtualClock
  readonly engine: LocalEngine
  readonly snapshot: HeldSnapshot
  /** Chunks in the order in which the store was asked for them. */
  readonly asked: string[]
  /** Wants a chunk and lets go of it; the virtual time that it took. */
  readonly read: (held: HeldSnapshot, chunk: number, options?: WantOptions) => Promise<number>
  readonly end: () => Promise<void>
}

/** `reading`: what a read of the store waits for. */
async function bench(
  { reading, ...options }: Partial<LocalEngineOptions> & { reading?: (clock: VirtualClock, signal?: AbortSignal) => Promise<void> } = {},
  clock = new VirtualClock(),
): Promise<Bench> {
  const asked: string[] = []
  const objects = patchedStore(marked.objects, {
    concurrency: STORE_PLACES,
    getInto: async (key: string, target: Uint8Array, { signal }: { signal?: AbortSignal | undefined } = {}) => {
      asked.push(key)
      await (reading?.(clock, signal) ?? clock.sleep(READ_MS, signal))
      target.set(bodies.get(key)!)
      return target.length
    },
  })
  const engine = new LocalEngine({ memoryBytes: 2 ** 26, caches: [], clock, ...options })
  const store = await engine.openStore(objects)
  const snapshot = await store.hold(marked.columns, ROOT, { tenant: 'a', restore: '' })
  return {
    clock,
    engine,
    snapshot,
    asked,
    async read(held, chunk, options) {
      const startedMs = clock.now()
      const { slot } = await held.want(chunk, options)
      engine.arena.unpin(slot)
      return clock.now() - startedMs
    },
    async end() {
      expect(new Int32Array(engine.arena.memory.pins).every(pins => pins === 0)).toBe(true)
      await clock.run(engine.close())
    },
  }
}

const keyOf = (chunk: number): string => marked.table.at(chunk).sealed.objectKey
const prefetch = (): WantOptions => ({ urgency: new Urgency('prefetch') })

describe('a demand', () => {
  it('beside another tenant’s thousand wants takes at most three times as long as alone', async () => {
    const { clock, snapshot, read, end } = await bench()
    const other = await snapshot.lend({ tenant: 'b', restore: '1' })
    const alone = await clock.run(read(other, CHUNKS - 2))
    const many = Array.from({ length: 1000 }, (_, chunk) => read(snapshot, chunk))
    await clock.advance(1)
    expect(await clock.run(read(other, CHUNKS - 1))).toBeLessThanOrEqual(3 * alone)
    await clock.run(Promise.all(many))
    await end()
  })

  it('beside another restore’s thousand wants of its own tenant too', async () => {
    const { clock, snapshot, read, end } = await bench()
    const one = await snapshot.lend({ tenant: 'a', restore: '1' })
    const other = await snapshot.lend({ tenant: 'a', restore: '2' })
    const many = Array.from({ length: 1000 }, (_, chunk) => read(one, chunk))
    await clock.advance(1)
    expect(await clock.run(read(other, CHUNKS - 1))).toBeLessThanOrEqual(3 * READ_MS)
    await clock.run(Promise.all(many))
    await end()
  })

  it('behind prefetches that the disk cache serves is asked for, and opened, before those that wait', async () => {
    const clock = new VirtualClock()
    const calls: string[] = []
    const entries = new Map<string, Buffer>()
    for (let chunk = 0; chunk < 65; chunk++) {
      const { id, objectKey } = marked.table.at(chunk).sealed
      entries.set(id, Buffer.from(bodies.get(objectKey)!))
    }
    const disk = new FakeCache('disk', { clock, entries, delayMs: 1, onCall: ({ id }) => void calls.push(id) })
    const { snapshot, read, end } = await bench({ caches: [disk] }, clock)
    const order: number[] = []
    const want = (chunk: number, options?: WantOptions): Promise<unknown> => read(snapshot, chunk, options).then(() => order.push(chunk))
    const prefetches = Array.from({ length: 64 }, (_, chunk) => want(chunk, prefetch()))
    await clock.advance(0)
    const before = calls.length
    prefetches.push(want(64))
    await clock.run(Promise.all(prefetches))
    // Six of the eight reads are theirs, so there was room.
    expect([before, calls.indexOf(marked.table.at(64).sealed.id)]).toEqual([6, 6])
    expect(order.indexOf(64)).toBeLessThanOrEqual(6)
    await end()
  })

  it('gets what it needs while another tenant’s store hangs', async () => {
    const hangs = (_: VirtualClock, signal?: AbortSignal): Promise<void> =>
      new Promise((_, reject) => signal?.addEventListener('abort', () => reject(signal.reason)))
    const { clock, engine, snapshot, read } = await bench({ reading: hangs, memoryBytes: 0 })
    const gone = new AbortController()
    const hung = Array.from({ length: 1000 }, (_, chunk) => codeOfAsync(() => read(snapshot, chunk, { signal: gone.signal })))
    await clock.advance(1)
    const store = await engine.openStore(marked.objects)
    const other = await store.hold(marked.columns, ROOT, { tenant: 'b', restore: '' })
    const pinned = Promise.withResolvers<Pinned>()
    other.want(CHUNKS - 1).then(pinned.resolve, pinned.reject)
    const { slot, tier } = await pinned.promise
    engine.arena.unpin(slot)
    expect([tier, clock.now()]).toEqual(['origin', 1])
    gone.abort(new EvalError('gone'))
    expect(new Set(await Promise.all(hung))).toEqual(new Set(['EvalError']))
    await clock.run(engine.close())
  })
})

describe('a deadline', () => {
  it('is the waiter’s: who joins late has all of his time, and what timed out is asked for again', async () => {
    // A partition of 35 s, in which an attempt ends after 30.
    const partition = async (clock: VirtualClock, signal?: AbortSignal): Promise<void> =>
      clock.sleep(Math.max(1, 35_000 - clock.now()), signal)
    const { clock, snapshot, read, asked, end } = await bench({ reading: partition })
    const first = read(snapshot, 0, prefetch())
    await clock.advance(29_900)
    const joined = read(snapshot, 0)
    const [, tookMs] = await clock.run(Promise.all([first, joined]))
    expect(tookMs).toBeLessThan(10_000)
    expect(asked.length).toBeGreaterThan(1)
    await end()
  })

  it('that nobody gave is a minute, and says what it waited for', async () => {
    const { clock, snapshot, asked, end } = await bench({ reading: (clock, signal) => clock.sleep(10 ** 9, signal) })
    const failed = snapshot.want(0).catch((error: unknown) => error)
    expect(await clock.run(failed)).toMatchObject({ code: 'TIMEOUT', tier: 'origin', object: keyOf(0), cause: { code: 'TIMEOUT' } })
    expect([clock.now(), asked.length]).toEqual([60_000, 2])
    await end()
  })
})

describe('a flight of a chunk', () => {
  it('begun when all had left the first neither publishes twice nor loses a slot or a number', async () => {
    const outcomes = new Set<string | undefined>()
    const [retained, dropped] = [vi.spyOn(ChunkNumbers.prototype, 'retain'), vi.spyOn(ChunkNumbers.prototype, 'drop')]
    // Whatever step the first is at between its bytes and its end.
    for (let turns = 0; turns < 30; turns++) {
      const arrived = Promise.withResolvers<void>()
      const reading = (clock: VirtualClock): Promise<void> => clock.sleep(READ_MS).then(arrived.resolve)
      const { clock, engine, snapshot, read, end } = await bench({ memoryBytes: 0, reading })
      for (const calls of [retained, dropped]) calls.mockClear()
      const gone = new AbortController()
      const first = codeOfAsync(() => read(snapshot, 0, { signal: gone.signal }))
      const leave = async (): Promise<void> => {
        await arrived.promise
        for (let turn = 0; turn < turns; turn++) await Promise.resolve()
        gone.abort(new EvalError('gone'))
        await read(snapshot, 0)
      }
      const [outcome] = await clock.run(Promise.all([first, leave()]))
      outcomes.add(outcome)
      expect([turns, (await engine.figures()).memory.chunks]).toEqual([turns, 1])
      for (let chunk = 1; chunk < 40; chunk++) await clock.run(read(snapshot, chunk))
      const { memory } = await engine.figures()
      expect([turns, memory.chunks]).toEqual([turns, memory.chunksMax])
      expect([turns, retained.mock.calls.length - dropped.mock.calls.length]).toEqual([turns, memory.chunks])
      await end()
    }
    vi.restoreAllMocks()
    expect(outcomes).toEqual(new Set(['EvalError', undefined]))
  })

  it('needs no more than one slot of everything', async () => {
    const { clock, snapshot, read, end } = await bench({ memoryBytes: 0, origin: { callsMax: 1, bytesMax: 1 } })
    const owners = await Promise.all([1, 2, 3].map(tenant => snapshot.lend({ tenant: `${tenant}`, restore: '' })))
    const reads = Array.from({ length: 300 }, (_, chunk) => read(owners[chunk % 3]!, chunk, chunk % 2 === 0 ? prefetch() : {}))
    await clock.run(Promise.all(reads))
    await end()
  })
})
