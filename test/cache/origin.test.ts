import { describe, expect, it } from 'vitest'
import { Origin, OriginCounters, type OriginOptions } from '../../src/cache/origin.ts'
import { ThawError } from '../../src/errors.ts'
import { faultAt, faultStore, memoryStore, VirtualClock } from '../../src/testing.ts'
import { Slab, type Slot } from '../../src/util/slab.ts'
import { Urgency } from '../../src/util/urgency.ts'
import { OBJECT_BYTES, SlowStore, type SlowStoreOptions } from './slow-store.ts'

const SLOT_BYTES = 4096

interface Bench {
  readonly clock: VirtualClock
  readonly store: SlowStore
  readonly slab: Slab
  readonly origin: Origin
  /** Fetches object `number`, checks its bytes and lets go of its slot. */
  readonly fetch: (number: number, options?: { readonly urgency?: Urgency; readonly signal?: AbortSignal }) => Promise<void>
}

async function bench({
  slots = 64,
  seed = 1,
  ...options
}: OriginOptions & Partial<SlowStoreOptions> & { slots?: number; seed?: number } = {}): Promise<Bench> {
  const clock = new VirtualClock(seed)
  const store = await new SlowStore({ delayMs: () => 10, ...options, clock }).fill(256)
  const slab = new Slab(slots, SLOT_BYTES)
  const origin = new Origin(store.objects, new OriginCounters(), slab, { hedge: false, ...options, clock })
  return {
    clock,
    store,
    slab,
    origin,
    async fetch(number, call) {
      const { value, praise } = await origin.fetch(`${number}`, OBJECT_BYTES, await slab.acquire(call), call)
      expect(value.bytes.subarray(0, OBJECT_BYTES).equals(Buffer.alloc(OBJECT_BYTES, number))).toBe(true)
      praise()
      value.release()
    },
  }
}

function freeSlots(slab: Slab): number {
  const slots: Slot[] = []
  for (let slot = slab.tryAcquire(); slot !== undefined; slot = slab.tryAcquire()) slots.push(slot)
  for (const slot of slots) slot.release()
  return slots.length
}

const numbers = (count: number): number[] => Array.from({ length: count }, (_, number) => number)
const keysOf = (trace: readonly string[]): string[] => trace.map(entry => entry.split(' ')[0]!)

describe('the turn', () => {
  it('comes to each of 256 readers in the order of arrival, and the store never sees more than the limit', async () => {
    const { clock, store, slab, origin, fetch } = await bench({ callsMax: 8, delayMs: ({ number }) => 1 + ((number * 7) % 13) })
    await clock.run(Promise.all(numbers(256).map(number => fetch(number))))
    expect(keysOf(store.trace)).toEqual(numbers(256).map(String))
    expect(store.underWayMax).toBe(8)
    const figures = origin.counters.read()
    expect(figures).toMatchObject({ hits: 256, errors: 0, underWay: 0, underWayMax: 8, bytes: 256 * OBJECT_BYTES })
    expect([figures.latency.count, figures.queue.count]).toEqual([256, 256])
    expect(freeSlots(slab)).toBe(64)
  })

  it('is waited for apart from the time of the read', async () => {
    const { clock, origin, fetch } = await bench({ callsMax: 1 })
    await clock.run(Promise.all([fetch(0), fetch(1), fetch(2)]))
    const { latency, queue } = origin.counters.read()
    expect([latency.sumMs, latency.maxMs, queue.sumMs, queue.maxMs]).toEqual([30, 10, 30, 20])
  })

  it('is counted in bytes too', async () => {
    const { clock, store, fetch } = await bench({ bytesMax: 3.5 * OBJECT_BYTES })
    await clock.run(Promise.all(numbers(50).map(number => fetch(number))))
    expect(store.bytesUnderWayMax).toBe(3 * OBJECT_BYTES)
  })

  it('of a manifest weighs an equal share', async () => {
    const { clock, store, origin } = await bench({ callsMax: 4, bytesMax: 4 * OBJECT_BYTES })
    const bodies = numbers(8).map(number => origin.get(`${number}`, { sizeMax: 2 ** 28 }))
    expect((await clock.run(Promise.all(bodies))).map(({ value }) => value[0])).toEqual(numbers(8))
    expect(store.underWayMax).toBe(4)
  })

  it('comes to a demand before what is prefetched, and to that when it is demanded', async () => {
    const { clock, store, fetch } = await bench({ callsMax: 1 })
    const urgencies = numbers(5).map(() => new Urgency('prefetch'))
    const calls = urgencies.map((urgency, number) => fetch(number, { urgency }))
    calls.push(fetch(100), fetch(101))
    clock.after(5, () => urgencies[3]!.raise())
    await clock.run(Promise.all(calls))
    expect(keysOf(store.trace)).toEqual(['0', '100', '101', '3', '1', '2', '4'])
  })

  it('waits for a slot if there is none', async () => {
    const { clock, store, slab, fetch } = await bench({ callsMax: 4, slots: 1 })
    await clock.run(Promise.all(numbers(6).map(number => fetch(number))))
    expect([store.underWayMax, freeSlots(slab)]).toEqual([1, 1])
  })
})

describe('an abort', () => {
  it('leaves the queue, the wait for memory, and the read, and the rest goes on', async () => {
    const reason = new Error('enough')
    for (const [at, options] of [
      ['queue', { callsMax: 1 }],
      ['memory', { slots: 1 }],
      ['read', {}],
    ] as const) {
      const { clock, slab, origin, fetch } = await bench(options)
      const abort = new AbortController()
      const calls = [fetch(0), fetch(1, { signal: abort.signal }), fetch(2)]
      clock.after(5, () => abort.abort(reason))
      const outcomes = await clock.run(Promise.allSettled(calls))
      expect(
        outcomes.map(({ status }) => status),
        at,
      ).toEqual(['fulfilled', 'rejected', 'fulfilled'])
      expect(outcomes[1], at).toMatchObject({ reason })
      expect(origin.counters.read(), at).toMatchObject({ hits: 2, errors: 0, underWay: 0 })
      expect(freeSlots(slab), at).toBe(slab.slots)
    }
  })

  it('while it waits for memory gives its turn back', async () => {
    const { clock, slab, fetch } = await bench({ callsMax: 1, slots: 1 })
    const held = slab.tryAcquire()!
    const abort = new AbortController()
    clock.after(1, () => abort.abort('enough'))
    await expect(clock.run(fetch(0, { signal: abort.signal }))).rejects.toBe('enough')
    held.release()
    await clock.run(fetch(1))
  })

  it('at the moment the read begins ends it', async () => {
    for (let turns = 0; turns < 12; turns++) {
      const { clock, store, slab, fetch } = await bench({ delayMs: () => 1000 })
      const abort = new AbortController()
      const call = fetch(0, { signal: abort.signal }).catch((error: unknown) => error)
      for (let turn = 0; turn < turns; turn++) await Promise.resolve()
      abort.abort('enough')
      await clock.advance(0)
      expect([store.underWay, freeSlots(slab)]).toEqual([0, slab.slots])
      expect(await call).toBe('enough')
    }
  })

  it('before the call asks the store nothing', async () => {
    const { store, slab, origin, fetch } = await bench()
    await expect(fetch(0, { signal: AbortSignal.abort('enough') })).rejects.toBe('enough')
    await expect(origin.get('0', { sizeMax: 1, signal: AbortSignal.abort('enough') })).rejects.toBe('enough')
    expect([store.trace.length, freeSlots(slab)]).toEqual([0, 64])
  })

  it('rethrows its reason, also if that is an error of ours', async () => {
    const { clock, fetch } = await bench()
    const reason = new ThawError('CLOSED', 'the snapshot is closed')
    const abort = new AbortController()
    clock.after(1, () => abort.abort(reason))
    await expect(clock.run(fetch(0, { signal: abort.signal }))).rejects.toBe(reason)
  })

  it('at the moment the bytes arrive loses no slot', async () => {
    for (let turns = 0; turns < 12; turns++) {
      const { clock, slab, fetch } = await bench()
      const abort = new AbortController()
      const call = fetch(0, { signal: abort.signal }).catch(() => undefined)
      const abortLater = async (): Promise<void> => {
        await clock.sleep(10)
        for (let turn = 0; turn < turns; turn++) await Promise.resolve()
        abort.abort()
      }
      await clock.run(Promise.all([call, abortLater()]))
      expect(freeSlots(slab)).toBe(slab.slots)
    }
  })
})

describe('the limit of an attempt', () => {
  it('counts from its turn: who queues behind others has all of it', async () => {
    const { clock, store, slab, origin, fetch } = await bench({ callsMax: 1, timeoutMs: 15 })
    await clock.run(Promise.all([fetch(0), fetch(1), fetch(2)]))
    expect(clock.now()).toBe(30)
    expect(keysOf(store.trace)).toEqual(['0', '1', '2'])
    expect(origin.counters.read()).toMatchObject({ hits: 3, errors: 0 })
    expect([store.underWay, freeSlots(slab)]).toEqual([0, 64])
  })

  it('passes while the store is deaf: answered at once, its place and its slot come back when the store is done', async () => {
    const { clock, store, slab, origin, fetch } = await bench({
      callsMax: 1,
      timeoutMs: 50,
      delayMs: ({ number }) => (number === 1 ? 80 : 10),
      deaf: true,
    })
    await expect(clock.run(fetch(0))).rejects.toMatchObject({ code: 'TIMEOUT', object: '0', tier: 'origin' })
    expect([clock.now(), store.underWay, freeSlots(slab), origin.counters.read().underWay]).toEqual([50, 1, 63, 1])
    await clock.run(fetch(1))
    expect(store.trace).toEqual(['0 at 0', '1 at 80'])
    expect([freeSlots(slab), origin.counters.read().underWay]).toEqual([64, 0])
  })

  it('covers manifests', async () => {
    const { clock, store, origin } = await bench({ callsMax: 1, timeoutMs: 50, delayMs: () => 80, deaf: true })
    const outcomes = await clock.run(Promise.allSettled([origin.get('0', { sizeMax: 2000 }), origin.get('1', { sizeMax: 2000 })]))
    for (const outcome of outcomes) expect(outcome).toMatchObject({ reason: { code: 'TIMEOUT', tier: 'origin' } })
    await clock.run()
    expect([store.underWay, ...store.trace]).toEqual([0, '0 at 0', '1 at 80'])
  })
})

describe('an error', () => {
  it('keeps its code and gets the tier', async () => {
    const cause = new ThawError('DENIED', 'no', { object: '0' })
    const { clock, slab, origin, fetch } = await bench({ error: () => cause })
    await expect(clock.run(fetch(0))).rejects.toMatchObject({ code: 'DENIED', object: '0', tier: 'origin', cause })
    await expect(clock.run(origin.get('0', { sizeMax: 1 }))).rejects.toMatchObject({ code: 'DENIED', tier: 'origin', cause })
    expect(origin.counters.read()).toMatchObject({ hits: 0, errors: 2, corrupt: 0, underWay: 0 })
    expect(freeSlots(slab)).toBe(64)
  })

  it('of a kind that is not ours stays what it is', async () => {
    const error = new TypeError('a bug')
    const { clock, slab, fetch } = await bench({ error: () => error })
    await expect(clock.run(fetch(0))).rejects.toBe(error)
    expect(freeSlots(slab)).toBe(64)
  })

  it('is CORRUPT for an object that is shorter or longer than it should be', async () => {
    const { clock, slab, origin } = await bench()
    for (const sizeBytes of [OBJECT_BYTES - 1, OBJECT_BYTES + 1, 0, SLOT_BYTES]) {
      await expect(clock.run(origin.fetch('7', sizeBytes, await slab.acquire()))).rejects.toMatchObject({
        code: 'CORRUPT',
        object: '7',
        tier: 'origin',
      })
    }
    expect(origin.counters.read()).toMatchObject({ hits: 0, errors: 4, corrupt: 4 })
    await expect(clock.run(origin.get('7', { sizeMax: 10 }))).rejects.toMatchObject({ code: 'BAD_FORMAT', tier: 'origin' })
    expect(freeSlots(slab)).toBe(64)
  })

  it('comes from whatever call of the store fails, for every object once', async () => {
    const slab = new Slab(4, SLOT_BYTES)
    for (let number = 1; number <= 8; number++) {
      const objects = faultStore(memoryStore({ like: 's3' }), { plan: faultAt(number + 1, { kind: 'fail', when: 'after' }) })
      await objects.put('a', Buffer.alloc(10, 1))
      const origin = new Origin(objects, new OriginCounters(), slab, { clock: new VirtualClock() })
      const read = async (): Promise<void> => (await origin.fetch('a', 10, await slab.acquire())).value.release()
      const outcomes = await Promise.allSettled(numbers(8).map(read))
      expect(outcomes.filter(({ status }) => status === 'rejected')).toMatchObject([{ reason: { code: 'UNAVAILABLE', tier: 'origin' } }])
      expect(freeSlots(slab)).toBe(4)
    }
  })
})
