import { describe, expect, it } from 'vitest'
import { isThawError, ThawError } from '../../src/errors.ts'
import { checkStore } from '../../src/store/check.ts'
import { retryStore } from '../../src/store/retry.ts'
import type { ObjectStore } from '../../src/store.ts'
import { type Fault, faultAt, faultStore, memoryStore, randomFaults } from '../../src/testing.ts'
import type { Clock } from '../../src/util/clock.ts'
import { VirtualClock } from '../../src/util/virtual-clock.ts'

/** Notes waits in place of waiting. */
function notingClock(): Clock & { readonly waitsMs: number[] } {
  const waitsMs: number[] = []
  return {
    waitsMs,
    now: () => 0,
    random: () => 1,
    async sleep(ms, signal) {
      signal?.throwIfAborted()
      waitsMs.push(ms)
    },
    after: () => () => undefined,
  }
}

const fails: Fault = { kind: 'fail', when: 'before' }

describe('retry', () => {
  it('waits exponentially, up to a cap, and gives up after a number of tries', async () => {
    const clock = notingClock()
    await using inner = faultStore(memoryStore(), { plan: () => fails })
    const store = retryStore(inner, { attemptsMax: 6, backoff: { firstMs: 100, maxMs: 500 }, clock })
    await expect(store.head('a')).rejects.toMatchObject({ code: 'UNAVAILABLE' })
    expect(clock.waitsMs).toEqual([100, 200, 400, 500, 500])
    expect(inner.callCount).toBe(6)
  })

  it.each(['UNAVAILABLE', 'TIMEOUT'] as const)('repeats %s', async code => {
    const plan = faultAt(1, { ...fails, error: new ThawError(code, 'not now') })
    await using inner = faultStore(memoryStore(), { plan })
    expect(await retryStore(inner, { clock: notingClock() }).head('a')).toBeUndefined()
    expect(inner.callCount).toBe(2)
  })

  it('repeats nothing else', async () => {
    const error = new ThawError('DENIED', 'no')
    await using inner = faultStore(memoryStore(), { plan: () => ({ ...fails, error }) })
    await expect(retryStore(inner, { clock: notingClock() }).put('a', Buffer.alloc(1))).rejects.toBe(error)
    expect(inner.callCount).toBe(1)
  })

  it('begins no attempt after a minute, so that a store which hangs is an error in bounded time', async () => {
    const clock = new VirtualClock(1)
    const hung = new ThawError('TIMEOUT', 'no answer within 30 s')
    let calls = 0
    const head = async (): Promise<never> => {
      calls++
      await clock.sleep(30_000)
      throw hung
    }
    const store = retryStore(Object.assign(memoryStore(), { head }), { clock })
    const rejected = expect(store.head('a')).rejects.toBe(hung)
    await clock.advance(120_000)
    await rejected
    expect(calls).toBe(2)
  })

  it('tries nothing after an abort', async () => {
    const abort = new AbortController()
    const reason = new Error('enough')
    await using inner = faultStore(memoryStore(), {
      plan: () => {
        abort.abort(reason)
        return fails
      },
    })
    await expect(retryStore(inner, { clock: notingClock() }).head('a', { signal: abort.signal })).rejects.toBe(reason)
    expect(inner.callCount).toBe(1)
  })

  it('makes every method come through whatever fails once, before or after it took effect', async () => {
    for (const when of ['before', 'after'] as const) {
      for (let number = 1, faults = 1; faults > 0; number++) {
        const inner = faultStore(memoryStore({ like: 's3' }), { plan: faultAt(number, { kind: 'fail', when }) })
        await using store = retryStore(inner, { clock: notingClock() })
        await store.put('a/1', Buffer.from('x'))
        expect(await store.putIfAbsent('a/2', Buffer.from('y'))).toBe(true)
        expect(await store.putIfAbsent('a/2', Buffer.from('z'))).toBe(false)
        await store.put('b/3', Buffer.from('z'))
        await store.sync()
        expect((await Array.fromAsync(store.list(''))).map(({ key }) => key)).toEqual(['a/1', 'a/2', 'b/3'])
        expect(await Array.fromAsync(store.listFolders(''))).toEqual(['a', 'b'])
        await store.delete('a/1')
        expect((await store.head('a/2'))?.sizeBytes).toBe(1)
        expect(Buffer.from(await store.get('a/2', { sizeMax: 1 })).toString()).toBe('y')
        expect(await store.getInto('b/3', Buffer.alloc(1))).toBe(1)
        faults = inner.faultCount
        expect(number).toBeLessThan(30)
      }
    }
  })

  it('comes through faults at random', async () => {
    const inner = faultStore(memoryStore(), {
      plan: randomFaults(7, 0.3, [fails, { kind: 'fail', when: 'after' }, { kind: 'delay', delayMs: 0 }]),
    })
    await using store = retryStore(inner, { attemptsMax: 20, clock: notingClock() })
    expect((await Array.fromAsync(checkStore(store))).filter(result => !result.ok)).toEqual([])
    expect(inner.faultCount).toBeGreaterThan(100)
  })
})

describe('fault', () => {
  const withFault = async (fault: Fault): Promise<ObjectStore> => {
    const inner = memoryStore({ like: 's3' })
    await inner.put('a', Buffer.alloc(1000))
    return faultStore(inner, { plan: faultAt(1, fault), seed: 3 })
  }

  it('flips one bit of a read, the same for the same seed, and not of what is stored', async () => {
    const bodies: Buffer[] = []
    for (let run = 0; run < 2; run++) {
      await using store = await withFault({ kind: 'flip' })
      const body = Buffer.alloc(1000)
      expect(await store.getInto('a', body)).toBe(1000)
      expect(body.reduce((bits, byte) => bits + byte.toString(2).replaceAll('0', '').length, 0)).toBe(1)
      expect(Buffer.from(await store.get('a', { sizeMax: 1000 })).equals(Buffer.alloc(1000))).toBe(true)
      bodies.push(body)
    }
    expect(bodies[0]?.equals(bodies[1] ?? Buffer.alloc(0))).toBe(true)
  })

  it('truncates a read', async () => {
    await using store = await withFault({ kind: 'truncate' })
    expect((await store.get('a', { sizeMax: 1000 })).length).toBeLessThan(1000)
  })

  it('hangs until the call is aborted or the store closed', async () => {
    const reason = new Error('enough')
    const abort = new AbortController()
    const store = faultStore(memoryStore(), { plan: () => ({ kind: 'hang' }) })
    const aborted = store.head('a', { signal: abort.signal }).catch((error: unknown) => error)
    const closed = store.put('a', Buffer.alloc(1)).catch((error: unknown) => error)
    abort.abort(reason)
    expect(await aborted).toBe(reason)
    await store.close()
    expect(isThawError(await closed, 'CLOSED')).toBe(true)
  })

  it('tells lost answers from calls that did nothing', async () => {
    for (const [when, there] of [
      ['before', false],
      ['after', true],
    ] as const) {
      await using store = faultStore(memoryStore({ like: 's3' }), { plan: faultAt(1, { kind: 'fail', when }) })
      await expect(store.put('a', Buffer.from('x'))).rejects.toMatchObject({ code: 'UNAVAILABLE' })
      expect((await store.head('a')) !== undefined).toBe(there)
    }
  })
})
