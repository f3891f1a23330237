/** The breaker, in virtual time. */
import { beforeEach, describe, expect, it } from 'vitest'
import { Breaker } from '../../src/util/breaker.ts'
import { VirtualClock } from '../../src/util/virtual-clock.ts'

let clock: VirtualClock
let breaker: Breaker

beforeEach(() => {
  clock = new VirtualClock()
  breaker = new Breaker({ clock })
})

function open(): void {
  for (let failure = 0; failure < 3; failure++) breaker.failed('call')
}

describe('a breaker', () => {
  it('opens at the third failure in a row', () => {
    expect([1, 2, 3].map(() => breaker.failed('call'))).toEqual([false, false, true])
    expect(breaker.enter()).toBeUndefined()
  })

  it('begins to count anew with each success', () => {
    breaker.failed('call')
    breaker.failed('call')
    breaker.succeeded()
    expect([1, 2].map(() => breaker.failed('call'))).toEqual([false, false])
    expect(breaker.enter()).toBe('call')
  })

  it('lets one probe through after a second, and all after its success', async () => {
    open()
    await clock.advance(999)
    expect(breaker.enter()).toBeUndefined()
    await clock.advance(1)
    expect([breaker.enter(), breaker.enter()]).toEqual(['probe', undefined])
    breaker.succeeded()
    expect([breaker.enter(), breaker.enter()]).toEqual(['call', 'call'])
  })

  it('waits twice as long after each probe that fails, up to 30 s, and one second again after a success', async () => {
    open()
    const waits: number[] = []
    for (let probe = 0; probe < 7; probe++) {
      const fromMs = clock.now()
      while (breaker.enter() === undefined) await clock.advance(500)
      waits.push(clock.now() - fromMs)
      expect(breaker.failed('probe')).toBe(true)
    }
    expect(waits).toEqual([1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000])
    breaker.succeeded()
    open()
    await clock.advance(1_000)
    expect(breaker.enter()).toBe('probe')
  })

  it('does not mind the failures of calls that began before it opened', async () => {
    open()
    expect(breaker.failed('call')).toBe(false)
    await clock.advance(1_000)
    expect(breaker.enter()).toBe('probe')
  })

  it('closes by the success of a call that began before it opened', () => {
    open()
    breaker.succeeded()
    expect(breaker.isOpen).toBe(false)
  })

  it('lets another probe through when one was abandoned', async () => {
    open()
    await clock.advance(1_000)
    const pass = breaker.enter()
    breaker.abandoned(pass!)
    expect(breaker.enter()).toBe('probe')
  })
})
