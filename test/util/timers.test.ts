/** Timers of a pager's loop, against a list that is sorted anew each time; and what they cost. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { Timers } from '../../src/util/timers.ts'
import { watchForLoops } from '../watchdog.ts'

watchForLoops()

describe('timers', () => {
  it('ring in the order in which they are due, and those that were taken back not at all', () => {
    const step = fc.oneof(
      fc.record({ kind: fc.constant('add' as const), at: fc.nat(50) }),
      fc.record({ kind: fc.constant('takeBack' as const), which: fc.nat(30) }),
      fc.record({ kind: fc.constant('ring' as const), now: fc.nat(50), callsMax: fc.integer({ min: 1, max: 5 }) }),
    )
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), steps => {
        const timers = new Timers()
        const model = new Map<number, number>()
        const takeBack: (() => void)[] = []
        const rung: number[] = []
        for (const action of steps) {
          if (action.kind === 'add') {
            const name = takeBack.length
            model.set(name, action.at)
            takeBack.push(timers.add(action.at, () => rung.push(name)))
          } else if (action.kind === 'takeBack') {
            takeBack[action.which]?.()
            model.delete(action.which)
          } else {
            timers.ring(action.now, action.callsMax)
            const due = [...model.values()].filter(at => at <= action.now).sort((a, b) => a - b)
            expect(rung.map(name => model.get(name))).toEqual(due.slice(0, action.callsMax))
            for (const name of rung.splice(0)) model.delete(name)
          }
          expect([timers.size, timers.nextAt]).toEqual([model.size, Math.min(Number.POSITIVE_INFINITY, ...model.values())])
        }
      }),
    )
  })

  it('may take each other back, and add others, while they ring', () => {
    const timers = new Timers()
    const rung: string[] = []
    const takeBack = timers.add(2, () => rung.push('second'))
    timers.add(1, () => {
      rung.push('first')
      takeBack()
      timers.add(3, () => rung.push('third'))
    })
    timers.ring(2, 10)
    expect([rung, timers.nextAt]).toEqual([['first'], 3])
    takeBack()
    timers.ring(3, 10)
    expect([rung, timers.size]).toEqual([['first', 'third'], 0])
  })

  it('cost the logarithm of how many there are', () => {
    const timers = new Timers()
    let looks = 0
    const at = (ms: number): number => {
      looks++
      return ms
    }
    const counted = (ms: number): number => ({ valueOf: () => at(ms) }) as unknown as number
    const takeBack = Array.from({ length: 4096 }, (_, ms) => timers.add(counted((ms * 2_654_435_761) % 4096), () => undefined))
    looks = 0
    for (const call of takeBack.slice(0, 1000)) call()
    // Two children and a comparison of two sides, on each of twelve levels.
    expect(looks / 1000).toBeLessThan(12 * 6)
  })
})
