/** The system's clock: waits that are longer than Node's timers take. */
import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { systemClock } from '../../src/util/clock.ts'
import { Deadline } from '../../src/util/deadline.ts'

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
})
afterEach(() => {
  vi.useRealTimers()
})

it.each([10, 2 ** 31 - 1, 2 ** 31, 2 ** 33 + 5])('waits for %d ms, and no less', async ms => {
  const ended: string[] = []
  systemClock.after(ms, () => ended.push('after'))
  const callOff = systemClock.after(ms, () => ended.push('called off'))
  const slept = systemClock.sleep(ms).then(() => ended.push('sleep'))
  const deadline = new Deadline(ms, () => new RangeError('late'))
  deadline.signal.addEventListener('abort', () => ended.push('deadline'))
  vi.advanceTimersByTime(ms - 1)
  expect(ended).toEqual([])
  callOff()
  vi.advanceTimersByTime(1)
  await slept
  expect(ended).toEqual(['after', 'deadline', 'sleep'])
})

it('sleeps until it is aborted', async () => {
  const controller = new AbortController()
  const slept = systemClock.sleep(2 ** 32, controller.signal)
  vi.advanceTimersByTime(2 ** 31)
  controller.abort(new RangeError('gone'))
  await expect(slept).rejects.toThrow(RangeError)
  expect(vi.getTimerCount()).toBe(0)
})
