import { describe, expect, it } from 'vitest'
import { BUCKETS_MS, Histogram, quantileOf } from '../../src/util/histogram.ts'
import { Slab, type Slot } from '../../src/util/slab.ts'
import { Urgency } from '../../src/util/urgency.ts'
import { codeOfAsync } from '../code-of.ts'

describe('a slab', () => {
  it('lends each slot to one at a time, and other threads find it by its number', async () => {
    const slab = new Slab(4, 1024)
    const slots = await Promise.all([slab.acquire(), slab.acquire(), slab.acquire(), slab.acquire()])
    expect(new Set(slots.map(({ index }) => index)).size).toBe(4)
    for (const { index, bytes } of slots) bytes.fill(index + 1)
    for (const { index } of slots) expect(Slab.view(slab, index).equals(Buffer.alloc(1024, index + 1))).toBe(true)
    expect([slab.isIdle, slab.tryAcquire()]).toEqual([false, undefined])
    for (const slot of slots) slot.release()
    expect(slab.isIdle).toBe(true)
  })

  it('is waited for: demands first, and a prefetch that becomes one joins them', async () => {
    const slab = new Slab(1, 1024)
    const held = await slab.acquire()
    const raised = new Urgency('prefetch')
    const order: string[] = []
    const waiting = Object.entries({ late: new Urgency('prefetch'), raised, demand: new Urgency() }).map(async ([name, urgency]) => {
      const slot = await slab.acquire({ urgency })
      order.push(name)
      slot.release()
    })
    raised.raise()
    held.release()
    await Promise.all(waiting)
    expect(order).toEqual(['demand', 'raised', 'late'])
    expect(slab.isIdle).toBe(true)
  })

  it('loses nothing to those who stop waiting', async () => {
    const slab = new Slab(1, 1024)
    const held = await slab.acquire()
    const aborter = new AbortController()
    const gone = codeOfAsync(() => slab.acquire({ signal: aborter.signal }))
    const stays = slab.acquire()
    aborter.abort(new EvalError('gone'))
    expect(await gone).toBe('EvalError')
    held.release()
    const slot: Slot = await stays
    expect(await codeOfAsync(() => slab.acquire({ signal: aborter.signal }))).toBe('EvalError')
    slot.release()
    expect(slab.isIdle).toBe(true)
  })

  it('is not overtaken: who asks now or never does not pass those who wait', async () => {
    const slab = new Slab(1, 1024)
    const held = await slab.acquire()
    const waiting = slab.acquire()
    held.release()
    expect(slab.tryAcquire()).toBe(undefined)
    ;(await waiting).release()
    expect(slab.tryAcquire()?.index).toBe(0)
  })
})

describe('a histogram', () => {
  it('knows the quantiles of what it counted to half an octave, and its sum and longest exactly', () => {
    const histogram = new Histogram()
    const durations = Array.from({ length: 1000 }, (_, index) => 0.01 * 1.01 ** index)
    for (const ms of durations) histogram.record(ms)
    const read = histogram.read()
    expect([read.count, histogram.count, read.maxMs]).toEqual([1000, 1000, durations.at(-1)])
    expect(read.sumMs).toBeCloseTo(durations.reduce((sum, ms) => sum + ms, 0))
    for (const q of [0.01, 0.5, 0.95, 0.999]) {
      const exact = durations[Math.ceil(q * 1000) - 1]!
      expect(quantileOf(read, q)).toBeGreaterThanOrEqual(exact)
      expect(quantileOf(read, q)).toBeLessThanOrEqual(exact * Math.SQRT2 * 1.0001)
    }
    expect(quantileOf(read, 1)).toBe(read.maxMs)
  })

  it('takes what is at a bound, below the first and beyond the last', () => {
    const histogram = new Histogram()
    for (const ms of [0, BUCKETS_MS[10]!, 1e12]) histogram.record(ms)
    const { buckets } = histogram.read()
    expect(buckets.flatMap((count, bucket) => (count > 0 ? [bucket] : []))).toEqual([0, 10, 63])
    expect(quantileOf(new Histogram().read(), 0.5)).toBeNaN()
  })
})
