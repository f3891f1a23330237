import { hash, randomBytes } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { countedCache, Fills } from '../../src/cache/fills.ts'
import { Origin, OriginCounters } from '../../src/cache/origin.ts'
import { type SealedBytes, type SealedRef, SealedSource } from '../../src/cache/tiered.ts'
import { isThawError, ThawError } from '../../src/errors.ts'
import type { TierFigures } from '../../src/stats.ts'
import { type FaultPlan, type FaultStore, faultStore, memoryStore, VirtualClock } from '../../src/testing.ts'
import { Slab } from '../../src/util/slab.ts'
import { codeOfAsync } from '../code-of.ts'
import { FakeCache } from '../fault/fake-cache.ts'

const SLOT_BYTES = 600_000

interface Stored extends SealedRef {
  readonly sealed: Buffer
}

interface Bench {
  readonly clock: VirtualClock
  readonly disk: FakeCache
  readonly l2: FakeCache
  readonly objects: FaultStore
  readonly slab: Slab
  readonly source: SealedSource
  readonly figures: () => Record<'disk' | 'l2' | 'origin', TierFigures>
  readonly settled: () => Promise<void>
  /** Puts bytes into the store under a name of theirs. */
  readonly store: (sizeBytes?: number) => Promise<Stored>
  /** Reads bytes as one who verifies them does; resolves to their tier. */
  readonly read: (ref: SealedRef, options?: { readonly signal?: AbortSignal; readonly originOnly?: boolean }) => Promise<string>
  readonly get: (ref: SealedRef, sizeMax?: number) => Promise<Uint8Array>
}

function bench({ slots = 8, plan = () => undefined }: { readonly slots?: number; readonly plan?: FaultPlan } = {}): Bench {
  const clock = new VirtualClock()
  const disk = new FakeCache('disk', { clock, delayMs: 1 })
  const l2 = new FakeCache('l2', { clock, delayMs: 2 })
  const caches = [disk, l2].map(countedCache)
  const inner = memoryStore({ like: 's3' })
  const objects = faultStore(inner, { plan, clock })
  const slab = new Slab(slots, SLOT_BYTES)
  const fills = new Fills()
  const counters = new OriginCounters()
  const origin = new Origin(objects, counters, slab, { clock, hedge: false, timeoutMs: 1000 })
  const source = new SealedSource({ caches, fills, slab, clock }, origin)
  const settled = (): Promise<void> => clock.run(fills.settled())
  return {
    clock,
    disk,
    l2,
    objects,
    slab,
    source,
    settled,
    figures: () => ({ disk: caches[0]!.counters.read(), l2: caches[1]!.counters.read(), origin: counters.read() }),
    async store(sizeBytes = 1000) {
      const sealed = randomBytes(sizeBytes)
      const id = hash('sha256', sealed)
      await inner.put(`chunks/${id}`, sealed)
      return { id, objectKey: `chunks/${id}`, sizeBytes, sealed }
    },
    read: (ref, options) => clock.run(source.withSealed(ref, sealed => checked(ref, sealed), options)),
    get: (ref, sizeMax = 10_000) => clock.run(source.get(ref.id, ref.objectKey, { sizeMax })),
  }
}

function checked({ id }: SealedRef, { bytes, tier }: SealedBytes): string {
  if (hash('sha256', bytes) !== id) throw new ThawError('CORRUPT', 'not the bytes of the id')
  return tier
}

async function failure(action: () => Promise<unknown>): Promise<ThawError> {
  try {
    await action()
  } catch (error) {
    if (isThawError(error)) return error
    throw error
  }
  throw new Error('it did not fail')
}

describe('the tiers', () => {
  it('are asked in order, and what one had is copied to those before it', async () => {
    const { disk, l2, slab, figures, settled, store, read } = bench()
    const ref = await store()
    expect(await read(ref)).toBe('origin')
    await settled()
    expect([disk.entries.get(ref.id)!.equals(ref.sealed), l2.entries.get(ref.id)!.equals(ref.sealed)]).toEqual([true, true])
    expect(await read(ref)).toBe('disk')
    disk.entries.clear()
    expect(await read(ref)).toBe('l2')
    await settled()
    expect(await read(ref)).toBe('disk')
    expect(figures()).toMatchObject({
      disk: { hits: 2, misses: 2, bytes: 2000, fills: 2, errors: 0, corrupt: 0, healed: 0 },
      l2: { hits: 1, misses: 1, bytes: 1000, fills: 1 },
      origin: { hits: 1, misses: 0 },
    })
    expect(slab.isIdle).toBe(true)
  })

  it('are passed over by who wants to know what the store has', async () => {
    const { disk, l2, figures, store, read, settled } = bench()
    const ref = await store()
    for (const cache of [disk, l2]) cache.entries.set(ref.id, ref.sealed)
    expect(await read(ref, { originOnly: true })).toBe('origin')
    await settled()
    expect(figures()).toMatchObject({ disk: { hits: 0, misses: 0, fills: 0 }, l2: { hits: 0, misses: 0, fills: 0 } })
  })

  it('that fail are counted, and never fail a read', async () => {
    const { disk, l2, figures, store, read } = bench()
    const ref = await store()
    for (const cache of [disk, l2]) {
      cache.entries.set(ref.id, ref.sealed)
      cache.plan = ({ method }) => (method === 'get' ? 'fail' : undefined)
    }
    expect(await read(ref)).toBe('origin')
    disk.plan = () => 'timeout'
    l2.plan = () => undefined
    expect(await read(ref)).toBe('l2')
    expect(figures()).toMatchObject({ disk: { errors: 2, hits: 0, corrupt: 0 }, l2: { errors: 1, hits: 1 } })
  })

  it('may all be closed: then there is the origin', async () => {
    const { disk, l2, store, read, figures } = bench()
    await disk.close()
    await l2.close()
    expect(await read(await store())).toBe('origin')
    expect(figures()).toMatchObject({ disk: { errors: 1, fillsDropped: 1 }, l2: { errors: 1, fillsDropped: 1 } })
  })
})

describe('a bad copy', () => {
  it.each(['flip', 'truncate'] as const)(
    '(%s on the way) is blamed on its tier, evicted there and healed; the next tier is asked',
    async fault => {
      const { disk, l2, figures, settled, store, read } = bench()
      const ref = await store()
      disk.entries.set(ref.id, Buffer.from(ref.sealed))
      l2.entries.set(ref.id, Buffer.from(ref.sealed))
      const calls: string[] = []
      disk.plan = ({ method }) => {
        calls.push(method)
        return method === 'get' ? fault : undefined
      }
      expect(await read(ref)).toBe('l2')
      await settled()
      expect(calls).toEqual(['get', 'evict', 'put'])
      expect(figures()).toMatchObject({
        disk: { corrupt: 1, healed: 1, fills: 1, hits: 0, errors: 0 },
        l2: { corrupt: 0, healed: 0, hits: 1 },
        origin: { hits: 0 },
      })
      disk.plan = () => undefined
      expect(await read(ref)).toBe('disk')
    },
  )

  it('in every cache costs a read of the origin, and all are healed', async () => {
    const { disk, l2, figures, settled, store, read } = bench()
    const ref = await store()
    for (const cache of [disk, l2]) {
      cache.entries.set(ref.id, Buffer.from(ref.sealed))
      cache.rot(ref.id)
    }
    expect(await read(ref)).toBe('origin')
    await settled()
    for (const cache of [disk, l2]) expect(cache.entries.get(ref.id)!.equals(ref.sealed)).toBe(true)
    expect(figures()).toMatchObject({ disk: { corrupt: 1, healed: 1 }, l2: { corrupt: 1, healed: 1 }, origin: { corrupt: 0 } })
  })

  it('that cannot be evicted harms nobody: the next reader finds it again', async () => {
    const { disk, figures, settled, store, read } = bench()
    const ref = await store()
    disk.entries.set(ref.id, Buffer.from(ref.sealed))
    disk.rot(ref.id)
    disk.plan = ({ method }) => (method === 'get' ? undefined : 'fail')
    expect(await read(ref)).toBe('origin')
    await settled()
    expect(await read(ref)).toBe('l2')
    expect(figures()).toMatchObject({ disk: { corrupt: 2, errors: 2, healed: 0 } })
  })

  it('is evicted once, before it is written again, however many readers find it', async () => {
    const { clock, disk, figures, settled, slab, source, store } = bench()
    const ref = await store()
    disk.entries.set(ref.id, Buffer.from(ref.sealed))
    disk.rot(ref.id)
    const calls: string[] = []
    disk.plan = ({ method }) => {
      calls.push(method)
      return method === 'evict' ? 'late' : undefined
    }
    const reads = Array.from({ length: 20 }, () => source.withSealed(ref, sealed => checked(ref, sealed)))
    expect(new Set(await clock.run(Promise.all(reads)))).toEqual(new Set(['origin']))
    await settled()
    expect(calls).toEqual(['get', 'evict', 'put'])
    expect(disk.entries.get(ref.id)!.equals(ref.sealed)).toBe(true)
    expect(figures()).toMatchObject({ disk: { corrupt: 1, healed: 1 }, origin: { hits: 1 } })
    expect(slab.isIdle).toBe(true)
  })

  it.each(['its bytes', 'an error of the disk'])('told by %s is healed, and counted, whichever reader finds the good one', async told => {
    for (const quicker of [0, 1]) {
      const { clock, disk, l2, figures, settled, slab, source, store } = bench()
      const ref = await store()
      for (const cache of [disk, l2]) cache.entries.set(ref.id, Buffer.from(ref.sealed))
      disk.rot(ref.id)
      const get = disk.get.bind(disk)
      disk.get = async (...call) => {
        await get(...call)
        if (told !== 'its bytes') throw new ThawError('CORRUPT', 'a bad sector', { tier: 'disk' })
        return await get(...call)
      }
      const reads = [0, 1].map(reader =>
        source.withSealed(ref, async sealed => {
          if (sealed.tier !== 'disk') await clock.sleep(reader === quicker ? 1 : 9)
          return checked(ref, sealed)
        }),
      )
      expect(await clock.run(Promise.all(reads))).toEqual(['l2', 'l2'])
      await settled()
      expect(figures()).toMatchObject({ disk: { corrupt: 1, healed: 1, fills: 1 }, l2: { hits: 1, corrupt: 0 } })
      expect([disk.entries.get(ref.id)!.equals(ref.sealed), slab.isIdle]).toEqual([true, true])
    }
  })

  it.each(['flip', 'truncate'] as const)('in the store (%s) is CORRUPT, with the object and the tier', async kind => {
    const { disk, figures, settled, slab, store, read } = bench({ plan: ({ method }) => (method === 'getInto' ? { kind } : undefined) })
    const ref = await store()
    expect(await failure(() => read(ref))).toMatchObject({ code: 'CORRUPT', tier: 'origin', object: ref.objectKey })
    await settled()
    expect([disk.entries.size, slab.isIdle]).toEqual([0, true])
    expect(figures().origin.corrupt).toBe(1)
  })
})

describe('the origin', () => {
  it('that fails, hangs or has nothing says so itself', async () => {
    const { objects, store, read } = bench({
      plan: ({ number }) => (number === 1 ? { kind: 'fail', when: 'before' } : number === 2 ? { kind: 'hang' } : undefined),
    })
    const ref = await store()
    expect(await failure(() => read(ref))).toMatchObject({ code: 'UNAVAILABLE', tier: 'origin' })
    expect(await failure(() => read(ref))).toMatchObject({ code: 'TIMEOUT', tier: 'origin' })
    const gone = { ...ref, objectKey: 'chunks/none' }
    expect(await failure(() => read(gone))).toMatchObject({ code: 'NOT_FOUND', tier: 'origin' })
    expect(await read(ref)).toBe('origin')
    expect(objects.faultCount).toBe(2)
  })
})

describe('readers of one chunk at a time', () => {
  it('cost one fetch, and look at the same bytes', async () => {
    const { clock, objects, source, store, figures, slab } = bench({ slots: 1, plan: () => ({ kind: 'delay', delayMs: 20 }) })
    const ref = await store()
    const slots = Array.from({ length: 100 }, () =>
      source.withSealed(ref, async sealed => {
        checked(ref, sealed)
        await clock.sleep(5)
        return sealed.slot
      }),
    )
    expect(new Set(await clock.run(Promise.all(slots))).size).toBe(1)
    expect([objects.callCount, figures().disk.misses, figures().l2.fills]).toEqual([1, 1, 0])
    expect(slab.isIdle).toBe(true)
  })

  it('do not share the fate of one who goes away, whoever came first', async () => {
    for (const gone of [0, 1]) {
      const { clock, objects, slab, source, store } = bench({ plan: () => ({ kind: 'delay', delayMs: 50 }) })
      const ref = await store()
      const aborters = [new AbortController(), new AbortController()]
      const reads = aborters.map(({ signal }) =>
        source.withSealed(ref, sealed => checked(ref, sealed), { signal }).catch(error => error.name),
      )
      clock.after(10, () => aborters[gone]!.abort(new EvalError('gone')))
      expect(await clock.run(Promise.all(reads))).toEqual(gone === 0 ? ['EvalError', 'origin'] : ['origin', 'EvalError'])
      expect([objects.callCount, slab.isIdle]).toEqual([1, true])
    }
  })

  it('who all go away leave nothing behind', async () => {
    const { clock, slab, source, store } = bench({ plan: () => ({ kind: 'hang' }) })
    const ref = await store()
    const aborter = new AbortController()
    const read = codeOfAsync(() => source.withSealed(ref, () => undefined, { signal: aborter.signal }))
    await clock.advance(20)
    aborter.abort(new EvalError('gone'))
    expect(await read).toBe('EvalError')
    await clock.run()
    expect([slab.isIdle, clock.now()]).toEqual([true, 20])
  })

  it('are not failed by another whose manifest says something wrong of it', async () => {
    const { clock, source, store } = bench({ plan: () => ({ kind: 'delay', delayMs: 5 }) })
    const ref = await store()
    const wrong = [
      { ...ref, sizeBytes: 10 },
      { ...ref, objectKey: 'chunks/none' },
    ].map(each => codeOfAsync(() => source.withSealed(each, sealed => checked(each, sealed))))
    const right = source.withSealed(ref, sealed => checked(ref, sealed))
    expect(await clock.run(Promise.all([...wrong, right]))).toEqual(['CORRUPT', 'NOT_FOUND', 'origin'])
  })

  it('get the reason when the store is closed', async () => {
    const { clock, source, store, slab } = bench({ plan: () => ({ kind: 'hang' }) })
    const ref = await store()
    const reads = [1, 2].map(() => codeOfAsync(() => source.withSealed(ref, () => undefined)))
    await clock.advance(20)
    source.close(new EvalError('closed'))
    expect(await Promise.all(reads)).toEqual(['EvalError', 'EvalError'])
    await clock.run()
    expect(slab.isIdle).toBe(true)
  })
})

describe('an object of unknown length', () => {
  it('comes from the nearest tier that has it, verified', async () => {
    const { disk, l2, figures, settled, store, get } = bench()
    const ref = await store(5000)
    const isRight = async (): Promise<boolean> => ref.sealed.equals(await get(ref))
    expect(await isRight()).toBe(true)
    await settled()
    disk.rot(ref.id)
    expect(await isRight()).toBe(true)
    await settled()
    l2.rot(ref.id)
    expect(await isRight()).toBe(true)
    expect(figures()).toMatchObject({ disk: { hits: 1, misses: 1, corrupt: 1, healed: 1 }, l2: { hits: 1 }, origin: { hits: 1 } })
  })

  it('that is longer than it may be is a bad copy in a cache, and BAD_FORMAT in the store', async () => {
    const { disk, figures, store, get } = bench()
    const ref = await store(5000)
    disk.entries.set(ref.id, randomBytes(20_000))
    expect(ref.sealed.equals(await get(ref))).toBe(true)
    expect(figures().disk.corrupt).toBe(1)
    expect(await failure(() => get({ ...ref, id: hash('sha256', 'another') }, 100))).toMatchObject({ code: 'BAD_FORMAT', tier: 'origin' })
  })

  it('that is bad in the store is CORRUPT', async () => {
    const { store, get, disk, settled } = bench({ plan: ({ method }) => (method === 'get' ? { kind: 'flip' } : undefined) })
    const ref = await store()
    expect(await failure(() => get(ref))).toMatchObject({ code: 'CORRUPT', tier: 'origin', object: ref.objectKey })
    await settled()
    expect(disk.entries.size).toBe(0)
  })
})

describe('copies to caches', () => {
  it('are bounded: a cache slower than the readers gets fewer', async () => {
    const { clock, disk, l2, figures, settled, source, store, read } = bench({ slots: 64 })
    disk.plan = ({ method }) => (method === 'put' ? 'late' : 'miss')
    l2.plan = ({ method }) => (method === 'put' ? 'late' : 'miss')
    const refs = await Promise.all(Array.from({ length: 200 }, () => store(500_000)))
    await clock.run(Promise.all(refs.map(ref => source.withSealed(ref, sealed => checked(ref, sealed)))))
    expect(disk.putBytesUnderWayMax).toBeLessThanOrEqual(64 * 2 ** 20)
    await settled()
    const { fills, fillsDropped } = figures().disk
    expect([fills + fillsDropped, fills > 100, fillsDropped > 50]).toEqual([200, true, true])
    // What was under way is over: there is room again.
    const ref = await store(500_000)
    await read(ref)
    await settled()
    expect(disk.entries.has(ref.id)).toBe(true)
  })

  it('are copies: the reader’s memory may be used again at once', async () => {
    const { clock, disk, settled, source, store } = bench({ slots: 1 })
    const refs = await Promise.all([store(), store(), store()])
    for (const ref of refs) await clock.run(source.withSealed(ref, sealed => checked(ref, sealed)))
    await settled()
    for (const { id, sealed } of refs) expect(disk.entries.get(id)!.equals(sealed)).toBe(true)
  })

  it('can be made without a reader, and then it is said whether all have them', async () => {
    const { clock, disk, l2, source, store } = bench()
    const { id, sealed } = await store()
    expect(await clock.run(source.prime(id, sealed, ['l2']))).toBe(true)
    expect([disk.entries.has(id), l2.entries.has(id)]).toEqual([false, true])
    disk.plan = () => 'fail'
    expect(await clock.run(source.prime(id, sealed, ['disk', 'l2']))).toBe(false)
  })
})
