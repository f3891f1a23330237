import { describe, expect, it } from 'vitest'
import { VirtualClock } from '../../src/testing.ts'
import { Deadline } from '../../src/util/deadline.ts'

describe('virtual clock', () => {
  it('stands still until it is moved, and then goes exactly that far', async () => {
    const clock = new VirtualClock()
    const called: string[] = []
    clock.after(10, () => called.push('10'))
    clock.after(10.5, () => called.push('10.5'))
    await new Promise(setImmediate)
    expect([clock.now(), ...called]).toEqual([0])
    await clock.advance(10)
    expect([clock.now(), ...called]).toEqual([10, '10'])
    await clock.advance(5)
    expect([clock.now(), ...called]).toEqual([15, '10', '10.5'])
  })

  it('calls timers of the same moment in the order in which they were set', async () => {
    const clock = new VirtualClock()
    const called: number[] = []
    for (let number = 0; number < 100; number++) clock.after(5, () => called.push(number))
    await clock.run()
    expect(called).toEqual(Array.from({ length: 100 }, (_, number) => number))
  })

  it('calls timers by time, whatever was called off, like a sorted list would', async () => {
    const clock = new VirtualClock(5)
    const called: string[] = []
    const set: { readonly name: string; readonly dueMs: number; readonly callOff: () => void }[] = []
    for (let number = 0; number < 2000; number++) {
      const dueMs = Math.floor(clock.random() * 300)
      const name = `${number} at ${dueMs}`
      set.push({ name, dueMs, callOff: clock.after(dueMs, () => called.push(name)) })
    }
    const kept = set.filter(() => clock.random() < 0.4)
    for (const timer of set) if (!kept.includes(timer)) timer.callOff()
    await clock.run()
    expect(called).toEqual(kept.sort((a, b) => a.dueMs - b.dueMs).map(({ name }) => name))
    for (const { callOff } of set) callOff()
  })

  it('lets everything finish that can before time goes on', async () => {
    const clock = new VirtualClock()
    const trace: string[] = []
    const work = async (name: string): Promise<void> => {
      await clock.sleep(1)
      for (let step = 0; step < 3; step++) {
        await new Promise(setImmediate)
        trace.push(`${name} ${step} at ${clock.now()}`)
      }
    }
    clock.after(1.5, () => trace.push('later'))
    await clock.run(Promise.all([work('a'), work('b')]))
    expect(trace).toEqual(['a 0 at 1', 'a 1 at 1', 'a 2 at 1', 'b 0 at 1', 'b 1 at 1', 'b 2 at 1'])
    await clock.run()
    expect(trace.at(-1)).toBe('later')
  })

  it('settles like what it runs until, and goes no further', async () => {
    const clock = new VirtualClock()
    clock.after(100, () => undefined)
    expect(await clock.run(clock.sleep(7).then(() => 'done'))).toBe('done')
    expect(clock.now()).toBe(7)
    const error = new Error('failed')
    await expect(clock.run(clock.sleep(1).then(() => Promise.reject(error)))).rejects.toBe(error)
    expect(clock.now()).toBe(8)
    await clock.run()
    expect(clock.now()).toBe(100)
  })

  it('rejects when it waits for what can never come, and with what a timer throws', async () => {
    const clock = new VirtualClock()
    clock.after(3, () => undefined)
    await expect(clock.run(new Promise(() => undefined))).rejects.toThrow('no timer is left')
    expect(clock.now()).toBe(3)
    const error = new Error('failed')
    clock.after(1, () => {
      throw error
    })
    await expect(clock.run()).rejects.toBe(error)
    expect(() => clock.after(Number.NaN, () => undefined)).toThrow(RangeError)
  })

  it('ends a sleep by its signal, and keeps no timer of it', async () => {
    const clock = new VirtualClock()
    const abort = new AbortController()
    const slept = clock.sleep(1000, abort.signal)
    clock.after(5, () => abort.abort('enough'))
    await expect(clock.run(slept)).rejects.toBe('enough')
    await expect(clock.sleep(1, abort.signal)).rejects.toBe('enough')
    await clock.run()
    expect(clock.now()).toBe(5)
  })

  it('moves deadlines', async () => {
    const clock = new VirtualClock()
    const late = async (): Promise<void> => {
      using deadline = new Deadline(50, () => 'late', { clock })
      await clock.sleep(100, deadline.signal)
    }
    await expect(clock.run(late())).rejects.toBe('late')
    expect(clock.now()).toBe(50)
  })

  it('has one random sequence a seed', () => {
    const draw = (seed: number): number[] => {
      const clock = new VirtualClock(seed)
      return Array.from({ length: 1000 }, () => clock.random())
    }
    expect(draw(1)).toEqual(draw(1))
    expect(draw(1)).not.toEqual(draw(2))
    expect(draw(3).every(value => value >= 0 && value < 1)).toBe(true)
    expect(draw(3).reduce((sum, value) => sum + value) / 1000).toBeCloseTo(0.5, 1)
  })

  it('serves thousands of workers', async () => {
    const clock = new VirtualClock()
    const work = async (): Promise<number> => {
      for (let step = 0; step < 3; step++) await clock.sleep(clock.random() * 1000)
      return clock.now()
    }
    const ends = await clock.run(Promise.all(Array.from({ length: 5000 }, work)))
    expect(Math.max(...ends)).toBe(clock.now())
  })
})
