import { describe, expect, it } from 'vitest'
import { HedgeBudget } from '../../src/cache/hedge.ts'
import { Origin, OriginCounters, type OriginOptions } from '../../src/cache/origin.ts'
import { ThawError } from '../../src/errors.ts'
import { VirtualClock } from '../../src/testing.ts'
import { Slab } from '../../src/util/slab.ts'
import { OBJECT_BYTES, type SlowRead, SlowStore } from './slow-store.ts'

/** Reads after which the 95th percentile is known, and a second try is allowed. */
const WARM_READS = 32

interface Bench {
  readonly clock: VirtualClock
  readonly store: SlowStore
  readonly slab: Slab
  readonly origin: Origin
  readonly fetch: (number: number) => Promise<void>
}

interface BenchOptions extends OriginOptions {
  /** Of the reads after the first WARM_READS, counted from 1; those took 10 ms each. */
  readonly delayMs: (read: SlowRead, clock: VirtualClock) => number
  readonly error?: (read: SlowRead) => Error | undefined
  readonly deaf?: boolean
  readonly slots?: number
  readonly seed?: number
}

/** An origin that has seen 32 reads of 10 ms. */
async function warm({ delayMs, error, deaf = false, slots = 64, seed = 1, ...options }: BenchOptions): Promise<Bench> {
  const clock = new VirtualClock(seed)
  const since = ({ number, key }: SlowRead): SlowRead => ({ number: number - WARM_READS, key })
  const store = await new SlowStore({
    clock,
    deaf,
    delayMs: read => (read.number <= WARM_READS ? 10 : delayMs(since(read), clock)),
    error: read => (read.number <= WARM_READS ? undefined : error?.(since(read))),
  }).fill(256)
  const slab = new Slab(slots, OBJECT_BYTES)
  const origin = new Origin(store.objects, new OriginCounters(), slab, { ...options, clock })
  const fetch = async (number: number): Promise<void> => {
    const { value, praise } = await origin.fetch(`${number % 256}`, OBJECT_BYTES, await slab.acquire())
    expect(value.bytes.equals(Buffer.alloc(OBJECT_BYTES, number % 256))).toBe(true)
    praise()
    value.release()
  }
  for (let number = 0; number < WARM_READS; number++) await clock.run(fetch(number))
  store.trace.length = WARM_READS
  return { clock, store, slab, origin, fetch }
}

function hedgesOf({ counters }: Origin): { readonly hedges: number; readonly hedgesWon: number } {
  const { hedges, hedgesWon } = counters.read()
  return { hedges, hedgesWon }
}

async function timeOf({ clock }: Bench, call: () => Promise<void>): Promise<number> {
  const started = clock.now()
  await clock.run(call())
  return clock.now() - started
}

function slotsTaken({ slab }: Bench): number {
  const slots = Array.from({ length: slab.slots }, () => slab.tryAcquire()).filter(slot => slot !== undefined)
  for (const slot of slots) slot.release()
  return slab.slots - slots.length
}

describe('a hedge', () => {
  it('is sent after the 95th percentile, and wins', async () => {
    const bench = await warm({ delayMs: ({ number }) => (number === 1 ? 1000 : 5) })
    expect(await timeOf(bench, () => bench.fetch(3))).toBe(15)
    expect(bench.store.trace.slice(WARM_READS)).toEqual(['3 at 320', '3 at 330'])
    expect(hedgesOf(bench.origin)).toEqual({ hedges: 1, hedgesWon: 1 })
    await bench.clock.advance(0)
    expect([bench.store.underWay, slotsTaken(bench)]).toEqual([0, 0])
  })

  it('loses, and is aborted', async () => {
    const bench = await warm({ delayMs: ({ number }) => (number === 1 ? 30 : 1000) })
    expect(await timeOf(bench, () => bench.fetch(3))).toBe(30)
    expect(hedgesOf(bench.origin)).toEqual({ hedges: 1, hedgesWon: 0 })
    await bench.clock.advance(0)
    expect([bench.store.underWay, slotsTaken(bench)]).toEqual([0, 0])
  })

  it('that is answered at the same moment gives one slot back', async () => {
    const bench = await warm({ delayMs: ({ number }) => (number === 1 ? 20 : 10) })
    expect(await timeOf(bench, () => bench.fetch(3))).toBe(20)
    expect(hedgesOf(bench.origin).hedges).toBe(1)
    await bench.clock.run()
    expect(slotsTaken(bench)).toBe(0)
  })

  it('leaves the slot of a deaf store alone until that is done', async () => {
    const bench = await warm({ deaf: true, delayMs: ({ number }) => (number === 1 ? 1000 : 5) })
    await bench.clock.run(bench.fetch(3))
    expect([slotsTaken(bench), bench.origin.counters.read().underWay]).toEqual([1, 1])
    await bench.clock.run()
    expect([slotsTaken(bench), bench.origin.counters.read().underWay]).toEqual([0, 0])
    expect(bench.origin.counters.read().hits).toBe(WARM_READS + 1)
  })

  it('is waited for when the first try fails, and the other way round', async () => {
    for (const failing of [1, 2]) {
      const bench = await warm({
        delayMs: ({ number }) => (number === failing ? 15 : 40) - (number === 2 ? 10 : 0),
        error: ({ number }) => (number === failing ? new ThawError('UNAVAILABLE', 'down') : undefined),
      })
      expect(await timeOf(bench, () => bench.fetch(3))).toBe(40)
      expect(hedgesOf(bench.origin)).toEqual({ hedges: 1, hedgesWon: failing === 1 ? 1 : 0 })
      expect(bench.origin.counters.read().errors).toBe(0)
      expect(slotsTaken(bench)).toBe(0)
    }
  })

  it('that fails as well leaves the first error', async () => {
    const bench = await warm({
      delayMs: () => 15,
      error: ({ number }) => new ThawError(number === 1 ? 'DENIED' : 'UNAVAILABLE', 'no'),
    })
    await expect(bench.clock.run(bench.fetch(3))).rejects.toMatchObject({ code: 'DENIED', tier: 'origin' })
    expect(bench.origin.counters.read()).toMatchObject({ errors: 1, hedges: 1 })
    expect(slotsTaken(bench)).toBe(0)
  })

  it('is not sent after the first try failed', async () => {
    const bench = await warm({ delayMs: () => 5, error: () => new ThawError('UNAVAILABLE', 'down') })
    await expect(bench.clock.run(bench.fetch(3))).rejects.toMatchObject({ code: 'UNAVAILABLE' })
    await bench.clock.run()
    expect(hedgesOf(bench.origin).hedges).toBe(0)
  })

  it('ends with its read', async () => {
    const bench = await warm({ delayMs: () => 1000, timeoutMs: 50 })
    await expect(bench.clock.run(bench.fetch(3))).rejects.toMatchObject({ code: 'TIMEOUT', object: '3', tier: 'origin' })
    expect(hedgesOf(bench.origin)).toEqual({ hedges: 1, hedgesWon: 0 })
    await bench.clock.advance(0)
    expect([bench.store.underWay, slotsTaken(bench)]).toEqual([0, 0])
  })

  it('is not sent without a free slot, without a turn, before enough is known, or when it is turned off', async () => {
    const slow = (): number => 1000
    for (const options of [{ slots: 1 }, { callsMax: 1 }, { bytesMax: OBJECT_BYTES }, { hedge: false }]) {
      const bench = await warm({ ...options, delayMs: slow })
      await bench.clock.run(bench.fetch(3))
      expect(hedgesOf(bench.origin).hedges, JSON.stringify(options)).toBe(0)
      await bench.clock.run(Promise.all([bench.fetch(4), bench.fetch(5)]))
      expect(slotsTaken(bench)).toBe(0)
    }
    const clock = new VirtualClock()
    const store = await new SlowStore({ clock, delayMs: ({ number }) => (number < WARM_READS ? 10 : 1000) }).fill(1)
    const slab = new Slab(4, OBJECT_BYTES)
    const origin = new Origin(store.objects, new OriginCounters(), slab, { clock })
    const fetch = async (): Promise<void> => (await clock.run(origin.fetch('0', OBJECT_BYTES, slab.tryAcquire()!))).value.release()
    for (let read = 0; read < WARM_READS; read++) await fetch()
    expect(origin.counters.read().hedges).toBe(0)
  })

  it('is never earlier than a millisecond', async () => {
    const clock = new VirtualClock()
    const store = await new SlowStore({ clock, delayMs: ({ number }) => (number <= WARM_READS ? 0.01 : 20) }).fill(1)
    const slab = new Slab(4, OBJECT_BYTES)
    const origin = new Origin(store.objects, new OriginCounters(), slab, { clock })
    const fetch = async (): Promise<void> => (await clock.run(origin.fetch('0', OBJECT_BYTES, slab.tryAcquire()!))).value.release()
    for (let read = 0; read < WARM_READS; read++) await fetch()
    const startedMs = clock.now()
    await fetch()
    expect(store.trace.at(-1)).toBe(`0 at ${startedMs + 1}`)
  })
})

describe('the budget of second tries', () => {
  it('allows the first after exactly twenty reads', () => {
    const budget = new HedgeBudget()
    for (let read = 0; read < 19; read++) budget.earn()
    expect(budget.allows).toBe(false)
    budget.earn()
    expect(budget.allows).toBe(true)
    budget.spend()
    expect(budget.allows).toBe(false)
  })

  it('saves ten at most, however many reads needed none', () => {
    const budget = new HedgeBudget()
    for (let read = 0; read < 10_000; read++) budget.earn()
    let burst = 0
    for (; budget.allows; burst++) budget.spend()
    expect(burst).toBe(10)
  })
})

/** 64 readers of a store that is slow for a few at all times, and for most of them now and then. */
async function crowd(seed: number): Promise<{ readonly bench: Bench; readonly reads: number }> {
  const readers = 64
  const readsEach = 160
  const delayMs = (_: SlowRead, clock: VirtualClock): number => {
    const stormy = clock.now() % 2000 > 1500
    return clock.random() < (stormy ? 0.6 : 0.03) ? 500 : 5 + 10 * clock.random()
  }
  const bench = await warm({ seed, callsMax: 80, slots: 100, delayMs })
  const reader = async (index: number): Promise<void> => {
    for (let read = 0; read < readsEach; read++) {
      await bench.clock.sleep(20 * bench.clock.random())
      await bench.fetch(index * readsEach + read)
    }
  }
  await bench.clock.run(Promise.all(Array.from({ length: readers }, (_, index) => reader(index))))
  await bench.clock.run()
  return { bench, reads: WARM_READS + readers * readsEach }
}

describe('hedges over 10,000 reads', () => {
  it('stay within a twentieth of them and within the limit, and the same seed gives the same trace', async () => {
    const [one, again, other] = [await crowd(1), await crowd(1), await crowd(2)]
    const { bench, reads } = one
    const { hedges, hedgesWon, hits, underWay, underWayMax } = bench.origin.counters.read()
    expect(hits).toBe(reads)
    expect(bench.store.trace.length).toBe(reads + hedges)
    expect(hedges).toBeLessThanOrEqual(reads / 20)
    expect(hedges).toBeGreaterThan(100)
    expect(hedgesWon).toBeGreaterThan(0)
    expect([underWay, slotsTaken(bench)]).toEqual([0, 0])
    expect(underWayMax).toBe(bench.store.underWayMax)
    expect(underWayMax).toBeLessThanOrEqual(80)
    expect(again.bench.store.trace).toEqual(bench.store.trace)
    expect(again.bench.origin.counters.read()).toEqual(bench.origin.counters.read())
    expect(other.bench.store.trace).not.toEqual(bench.store.trace)
  })
})
