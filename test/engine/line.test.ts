/** Lines: the ring, the two bells, and who is told what when one side goes away. */
import { once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { ABSENT } from '../../src/arena.ts'
import { type LineEnd, placeOf, WANTS_MAX } from '../../src/engine/line.ts'
import { LINE_FULL, LineClient } from '../../src/engine/line-client.ts'
import { openEnds } from '../../src/engine/line-open.ts'
import { LinePromises } from '../../src/engine/line-promises.ts'
import { ENTRY_WORDS, Ring } from '../../src/engine/line-ring.ts'
import { LineServer } from '../../src/engine/line-server.ts'
import { RemoteEngine, startThread } from '../../src/engine/remote.ts'
import { startEngine } from '../../src/engine/start.ts'
import type { Engine, HeldSnapshot, Pinned, WantOptions } from '../../src/engine.ts'
import { ThawError } from '../../src/errors.ts'
import { Urgency } from '../../src/util/urgency.ts'
import { codeOfAsync } from '../code-of.ts'
import { watchForLoops } from '../watchdog.ts'
import type { LineThreadOptions, LineThreadResult } from './line-thread.ts'
import { type MarkedStore, markedStore, ROOT } from './marked-store.ts'

watchForLoops()

const CHUNKS = 40
const PAGES = 2

describe('a ring', () => {
  it('is full at its capacity, goes round, and counts past 2³¹', () => {
    const memory = new SharedArrayBuffer(Ring.sizeBytes(4))
    const words = new Int32Array(memory)
    // Both counts, as after 2³¹ - 3 entries.
    words[0] = 2 ** 31 - 3
    words[16] = 2 ** 31 - 3
    const [producer, consumer] = [new Ring(memory, 0, 4), new Ring(memory, 0, 4)]
    const entry = new Int32Array(ENTRY_WORDS)
    for (let round = 0; round < 10; round++) {
      for (let item = 0; item < 4; item++) expect(producer.put(round, item, -1, 7)).toBe(true)
      expect(producer.put(0, 0, 0, 0)).toBe(false)
      for (let item = 0; item < 4; item++) {
        expect(consumer.take(entry)).toBe(true)
        expect([...entry]).toEqual([round, item, -1, 7])
      }
      expect(consumer.take(entry)).toBe(false)
    }
  })

  it('wakes a sleeper once, and lets nobody sleep who has something to take', () => {
    const ring = new Ring(new SharedArrayBuffer(Ring.sizeBytes(4)), 0, 4)
    expect(ring.takeSleeper()).toBe(false)
    expect(ring.sleep()).toBe(true)
    ring.put(1, 2, 3, 4)
    expect([ring.takeSleeper(), ring.takeSleeper(), ring.sleep(), ring.takeSleeper()]).toEqual([true, false, false, false])
  })
})

/** An engine whose wants the test answers. */
class HeldWants {
  readonly wants: { readonly chunk: number; readonly options: WantOptions; readonly answer: PromiseWithResolvers<Pinned> }[] = []
  readonly unpinned: number[] = []
  readonly engine = {
    arena: { unpin: (slot: number) => this.unpinned.push(slot) },
    want: (_handle: number, chunk: number, options: WantOptions): Promise<Pinned> => {
      const answer = Promise.withResolvers<Pinned>()
      this.wants.push({ chunk, options, answer })
      options.signal?.addEventListener('abort', () => answer.reject(options.signal!.reason))
      return answer.promise
    },
  }
}

/** Numbers below `below`, the same ones each time. xorshift32 (Marsaglia, "Xorshift RNGs", 2003). */
function randomOf(seed: number): (below: number) => number {
  let state = seed
  return below => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) % below
  }
}

/** Answers after a few turns, one want in four with an error of that chunk; a slot is the chunk's number. */
class CarelessEngine {
  readonly arena = { unpin: () => undefined }
  readonly #random: (below: number) => number

  constructor(random: (below: number) => number) {
    this.#random = random
  }

  async want(_handle: number, chunk: number, { signal }: WantOptions): Promise<Pinned> {
    for (let turns = this.#random(4); turns > 0; turns--) {
      await turn()
      signal!.throwIfAborted()
    }
    if (this.#random(4) === 0) throw new ThawError('CORRUPT', 'bad', { object: `chunk ${chunk}` })
    return { slot: chunk, tier: 'disk' }
  }
}

async function openPair(): Promise<{ held: HeldWants; client: LineClient; server: LineServer; reader: LineEnd }> {
  const { reader, engine } = await openEnds('message')
  const held = new HeldWants()
  const server = new LineServer(engine, held.engine, () => undefined)
  return { held, client: new LineClient(reader), server, reader }
}

/** Everything that came, as [request, slot or code]. */
function answers(client: LineClient): (readonly [number, number | string | undefined])[] {
  const all: (readonly [number, number | string | undefined])[] = []
  for (let done = client.next(); done !== undefined; done = client.next()) {
    all.push([done.request, done.slot === ABSENT ? done.code : done.slot])
  }
  return all
}

describe('a line', () => {
  it('takes so many wants and no more, and answers each once', async () => {
    const { held, client, server } = await openPair()
    for (let round = 0; round < 3; round++) {
      const requests = Array.from({ length: WANTS_MAX }, (_, chunk) => client.want(1, chunk, 'prefetch'))
      expect([new Set(requests).size, Math.min(...requests) >= 0]).toEqual([WANTS_MAX, true])
      expect([client.want(1, 0, 'demand'), client.outstanding]).toEqual([LINE_FULL, WANTS_MAX])
      await expect.poll(() => held.wants.length).toBe(WANTS_MAX)
      for (const { chunk, answer } of held.wants.splice(0)) answer.resolve({ slot: chunk + 1, tier: 'disk' })
      await turn()
      expect(answers(client)).toEqual(requests.map((request, chunk) => [request, chunk + 1]))
      expect([client.outstanding, client.next()]).toEqual([0, undefined])
    }
    server.close()
  })

  it('carries what is more urgent, and what nobody wants any more', async () => {
    const { held, client, server } = await openPair()
    const first = client.want(1, 7, 'prefetch')
    const second = client.want(1, 8, 'prefetch')
    client.raise(first, 'bulk')
    client.cancel(second)
    await expect.poll(() => held.wants[1]?.options.signal?.aborted).toBe(true)
    expect(held.wants.map(({ options }) => options.urgency?.priority)).toEqual(['bulk', 'prefetch'])
    await turn()
    expect(answers(client)).toEqual([[second, 'CLOSED']])
    server.close()
  })

  it.each(['cancel', 'raise'] as const)('lets a late %s pass by the request that has the place now', async kind => {
    const { held, client, server } = await openPair()
    const first = client.want(1, 100, 'prefetch')
    await expect.poll(() => held.wants.length).toBe(1)
    held.wants[0]!.answer.resolve({ slot: 7, tier: 'disk' })
    // Answered, and not looked at yet.
    await turn()
    if (kind === 'cancel') client.cancel(first)
    else client.raise(first, 'demand')
    expect(answers(client)).toEqual([[first, 7]])
    const second = client.want(1, 200, 'prefetch')
    expect([placeOf(second), second === first]).toEqual([placeOf(first), false])
    await expect.poll(() => held.wants.length).toBe(2)
    const { signal, urgency } = held.wants[1]!.options
    expect([signal!.aborted, urgency!.priority]).toEqual([false, 'prefetch'])
    server.close()
  })

  it('fails what is outstanding, and what comes later, when the engine ends', async () => {
    const { held, client, server } = await openPair()
    const requests = [7, 8].map(chunk => client.want(1, chunk, 'demand'))
    await expect.poll(() => held.wants.length).toBe(2)
    held.wants[0]!.answer.resolve({ slot: 5, tier: 'origin' })
    await turn()
    requests.push(client.want(1, 9, 'demand'))
    server.end('CLOSED')
    held.wants[1]!.answer.resolve({ slot: 6, tier: 'origin' })
    await turn()
    expect(held.unpinned).toEqual([6])
    expect(client.sleep()).toBe(false)
    expect(answers(client)).toEqual([
      [requests[0], 5],
      [requests[1], 'CLOSED'],
      [requests[2], 'CLOSED'],
    ])
    const late = client.want(1, 9, 'demand')
    expect(answers(client)).toEqual([[late, 'CLOSED']])
    expect(client.sleep()).toBe(true)
  })

  it('takes back what a reader that went away did not take', async () => {
    const { held, client, reader } = await openPair()
    const [first] = [1, 2, 3].map(chunk => client.want(1, chunk, 'demand'))
    await expect.poll(() => held.wants.length).toBe(3)
    held.wants[0]!.answer.resolve({ slot: 11, tier: 'l2' })
    held.wants[1]!.answer.resolve({ slot: 12, tier: 'l2' })
    await turn()
    expect(client.next()).toMatchObject({ request: first, slot: 11, tier: 'l2' })
    reader.port.close()
    await expect.poll(() => held.unpinned).toEqual([12])
    expect(held.wants[2]!.options.signal?.aborted).toBe(true)
  })

  it('gives up on an engine that hangs: one that takes nothing, and says nothing', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    try {
      const { reader, engine } = await openEnds('message')
      const line = new LinePromises(reader, { unpin: () => undefined })
      const wants = Array.from({ length: WANTS_MAX + 3 }, (_, chunk) => codeOfAsync(() => line.want(1, chunk)))
      vi.advanceTimersByTime(100_000)
      expect(new Set(await Promise.all(wants))).toEqual(new Set(['TIMEOUT']))
      engine.port.close()
    } finally {
      vi.useRealTimers()
    }
  })

  it('tells a reader with an event loop all about a failure', async () => {
    const { reader, engine } = await openEnds('message')
    const held = new HeldWants()
    const server = new LineServer(engine, held.engine, () => undefined)
    const line = new LinePromises(reader, { unpin: () => undefined })
    const want = line.want(1, 2)
    await expect.poll(() => held.wants.length).toBe(1)
    const cause = new ThawError('CORRUPT', 'the cause')
    held.wants[0]!.answer.reject(new ThawError('CORRUPT', 'what', { object: 'which', tier: 'l2', cause }))
    await expect(want).rejects.toMatchObject({
      code: 'CORRUPT',
      message: 'what',
      object: 'which',
      tier: 'l2',
      cause: { message: 'the cause' },
    })
    server.close()
  })

  it('gives nobody the end or the error of another, however many come and go', async () => {
    const { reader, engine } = await openEnds('message')
    const random = randomOf(7)
    const server = new LineServer(engine, new CarelessEngine(random), () => undefined)
    const line = new LinePromises(reader, { unpin: () => undefined })
    const wrong: unknown[] = []
    let chunk = 0
    const patient = async (): Promise<void> => {
      for (let wants = 0; wants < 300; wants++) {
        const own = chunk++
        await line.want(1, own).then(
          ({ slot }) => slot === own || wrong.push([own, slot]),
          error => error.object === `chunk ${own}` || wrong.push([own, error]),
        )
      }
    }
    const impatient = async (): Promise<void> => {
      for (let wants = 0; wants < 300; wants++) {
        const controller = new AbortController()
        const want = line.want(1, chunk++, { signal: controller.signal }).catch(() => undefined)
        for (let turns = random(4); turns > 0; turns--) await turn()
        controller.abort()
        await want
      }
    }
    await Promise.all([patient(), patient(), patient(), impatient(), impatient(), impatient()])
    expect(wrong).toEqual([])
    server.close()
  })

  it('lets those beyond its capacity wait their turn, demands first', async () => {
    const { reader, engine } = await openEnds('message')
    const held = new HeldWants()
    const server = new LineServer(engine, held.engine, () => undefined)
    const line = new LinePromises(reader, { unpin: () => undefined })
    const urgency = new Urgency('prefetch')
    const all = Array.from({ length: WANTS_MAX }, (_, chunk) => line.want(1, chunk))
    const controller = new AbortController()
    all.push(line.want(1, 5001, { urgency: new Urgency('prefetch') }), line.want(1, 5002, { urgency }))
    const cancelled = codeOfAsync(() => line.want(1, 5003, { signal: controller.signal }))
    urgency.raise()
    controller.abort(new RangeError('gone'))
    await expect.poll(() => held.wants.length).toBe(WANTS_MAX)
    for (const { answer } of [...held.wants]) answer.resolve({ slot: 1, tier: 'disk' })
    await expect.poll(() => held.wants.length).toBe(WANTS_MAX + 2)
    expect(held.wants.slice(WANTS_MAX).map(({ chunk }) => chunk)).toEqual([5002, 5001])
    for (const { answer } of held.wants.slice(WANTS_MAX)) answer.resolve({ slot: 1, tier: 'disk' })
    expect([(await Promise.all(all)).length, await cancelled]).toEqual([WANTS_MAX + 2, 'RangeError'])
    server.close()
  })
})

describe.each([
  { name: 'on main', start: (): Promise<Engine> => startEngine({ memoryBytes: 0 }) },
  { name: 'on a worker', start: (): Promise<Engine> => RemoteEngine.over(startThread({ memoryBytes: 0 })) },
])('a thread with a line to an engine $name', ({ start }) => {
  let marked: MarkedStore
  let engine: Engine
  let held: HeldSnapshot

  beforeEach(async () => {
    marked = await markedStore(CHUNKS, PAGES)
    engine = await start()
    held = await (await engine.openStore(marked.objects)).hold(marked.columns, ROOT)
  })

  afterEach(async () => {
    await engine.close()
    await marked[Symbol.asyncDispose]()
  })

  const pins = (): number => new Int32Array(engine.arena.memory.pins).reduce((sum, count) => sum + count, 0)

  function startReader(end: LineEnd, handle: number, wants: number): Worker {
    const workerData: LineThreadOptions = { arena: engine.arena.memory, end, handle, chunks: CHUNKS, pages: PAGES, wants }
    return new Worker(new URL('./line-thread.ts', import.meta.url), { workerData, transferList: [end.port] })
  }

  async function resultOf(reader: Worker): Promise<LineThreadResult> {
    const [result] = (await once(reader, 'message')) as [LineThreadResult]
    await reader.terminate()
    return result
  }

  it.each(['eventfd', 'message'] as const)('is served, and woken by %s', async bell => {
    await using line = await engine.openLine(bell)
    expect(line.end.bellFd === undefined).toBe(bell === 'message')
    expect(await resultOf(startReader(line.end, held.handle, WANTS_MAX + 99))).toEqual({ good: WANTS_MAX + 99, codes: [] })
    expect(pins()).toBe(0)
  })

  it('is told that a snapshot is not open', async () => {
    await using line = await engine.openLine('eventfd')
    expect(await resultOf(startReader(line.end, held.handle + 1, 2))).toEqual({ good: 0, codes: ['CLOSED', 'CLOSED'] })
  })

  it.each(['eventfd', 'message'] as const)('is told by %s that the engine closes', async bell => {
    await using line = await engine.openLine(bell)
    const result = resultOf(startReader(line.end, held.handle, 2 ** 30))
    await expect.poll(async () => (await engine.figures()).origin.hits, { timeout: 30_000 }).toBeGreaterThan(CHUNKS)
    await engine.close()
    const { good, codes } = await result
    expect([good > CHUNKS, new Set(codes)]).toEqual([true, new Set(['CLOSED'])])
    expect(pins()).toBe(0)
  })

  it('may die at any time', async () => {
    await using line = await engine.openLine('message')
    const reader = startReader(line.end, held.handle, 2 ** 30)
    await expect.poll(async () => (await engine.figures()).origin.hits, { timeout: 30_000 }).toBeGreaterThan(CHUNKS)
    await reader.terminate()
    // What it held in its hands at that moment is lost with it: one slot, of those it looked at one after the other.
    await expect.poll(pins).toBeLessThanOrEqual(1)
    for (let chunk = 0; chunk < CHUNKS; chunk++) engine.arena.unpin((await held.want(chunk)).slot)
  })

  it('has what it counted added up, also once it is gone', async () => {
    const line = await engine.openLine('message')
    const client = new LineClient(line.end)
    client.countHits(1, 4096)
    client.countHits(1, 100)
    engine.countHits(1, 1)
    const counted = { hits: 3, bytes: 4197 }
    expect((await engine.figures()).memory).toMatchObject(counted)
    client.close()
    await line.close()
    expect((await engine.figures()).memory).toMatchObject(counted)
  })
})
