import { describe, expect, it } from 'vitest'
import { ThawError } from '../../src/errors.ts'
import { backoffMs, isTransient, Retries, retry } from '../../src/util/retry.ts'
import { VirtualClock } from '../../src/util/virtual-clock.ts'

describe('asking again', () => {
  it('is for what may pass', () => {
    expect(isTransient('UNAVAILABLE')).toBe(true)
    expect(isTransient('TIMEOUT')).toBe(true)
    for (const code of ['NOT_FOUND', 'CORRUPT', 'DENIED', 'CLOSED', 'NO_SPACE', undefined] as const) {
      expect(isTransient(code)).toBe(false)
    }
  })

  it('waits for a random time below a bound that doubles up to a maximum', () => {
    const bounds = [1, 2, 3, 4, 5, 6, 60].map(attempt => backoffMs(attempt, { random: () => 1 }))
    expect(bounds).toEqual([100, 200, 400, 800, 1_600, 2_000, 2_000])
    expect(backoffMs(3, { random: () => 0 })).toBe(0)
  })

  it('goes on without a bound until the signal aborts, whose reason it gives', async () => {
    const clock = new VirtualClock()
    const abort = new AbortController()
    const reason = new Error('nobody waits any more')
    let calls = 0
    const call = async (): Promise<never> => {
      calls++
      throw new ThawError('TIMEOUT', 'not now')
    }
    const rejected = expect(retry(call, { clock }, undefined, abort.signal)).rejects.toBe(reason)
    await clock.advance(100_000)
    expect(calls).toBeGreaterThan(50)
    abort.abort(reason)
    await rejected
    const callsThen = calls
    await clock.advance(100_000)
    expect(calls).toBe(callsThen)
  })

  it('counts anew after it got on', async () => {
    const clock = new VirtualClock()
    const error = new ThawError('UNAVAILABLE', 'not now')
    const retries = new Retries({ clock, attemptsMax: 2 })
    for (let round = 0; round < 3; round++) {
      const waited = retries.waitAfter(error)
      await clock.advance(1_000)
      await waited
      retries.reset()
    }
    const waited = retries.waitAfter(error)
    await clock.advance(1_000)
    await waited
    await expect(retries.waitAfter(error)).rejects.toBe(error)
  })
})
