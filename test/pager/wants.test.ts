/** Wants of a pager: one request however many wait, a deadline for each who waits, and a share for each restore. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { ABSENT } from '../../src/arena.ts'
import type { ErrorCode } from '../../src/errors.ts'
import { RESTORE_REQUESTS_MAX, type Requests, type WantingRestore, Wants } from '../../src/pager/wants.ts'
import type { ChunkWaiter } from '../../src/pager.ts'
import { systemClock } from '../../src/util/clock.ts'

const SLOT = 7
const A: WantingRestore = { handle: 1, owner: { tenant: 'acme', restore: 'a' } }
const B: WantingRestore = { handle: 2, owner: { tenant: 'acme', restore: 'b' } }
const OTHER: WantingRestore = { handle: 3, owner: { tenant: 'other', restore: 'c' } }

/** An engine that answers when the test says so. */
class HeldRequests implements Requests {
  readonly asked: { readonly request: number; readonly handle: number; readonly chunk: number }[] = []
  readonly cancelled: number[] = []

  want(handle: number, chunk: number): number {
    const request = this.asked.length
    this.asked.push({ request, handle, chunk })
    return request
  }

  cancel(request: number): void {
    this.cancelled.push(request)
  }
}

class Waiter implements ChunkWaiter {
  readonly told: (number | ErrorCode | undefined)[] = []
  readonly broken: unknown[] = []
  onTold = (): void => undefined

  onChunk(chunk: number, slot: number): void {
    expect(slot).toBe(SLOT)
    this.told.push(chunk)
    this.onTold()
  }

  onChunkFailed(_chunk: number, code: ErrorCode | undefined): void {
    this.told.push(code)
    this.onTold()
  }

  onBroken(error: unknown): void {
    this.broken.push(error)
  }
}

let requests: HeldRequests
let unpinned: number[]
let wants: Wants
let waiter: Waiter
let other: Waiter

function start(requestsMax = 4096): void {
  requests = new HeldRequests()
  unpinned = []
  wants = new Wants({ arena: { unpin: slot => unpinned.push(slot) }, requests, requestsMax, timers: systemClock })
  waiter = new Waiter()
  other = new Waiter()
}

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['performance', 'setTimeout', 'clearTimeout'] })
  start()
})
afterEach(() => vi.useRealTimers())

const answer = (request: number): void => wants.answer({ request, slot: SLOT, tier: 'disk', code: undefined })
const fail = (request: number, code: ErrorCode | undefined): void => wants.answer({ request, slot: ABSENT, tier: 'memory', code })
const within = (ms: number): number => performance.now() + ms

describe('a chunk', () => {
  it('is asked for once, and each who waits is told once', () => {
    for (let times = 0; times < 3; times++) wants.want(A, 5, waiter, within(1000))
    wants.want(A, 5, other, within(1000))
    expect(requests.asked).toEqual([{ request: 0, handle: 1, chunk: 5 }])
    answer(0)
    expect([waiter.told, other.told, unpinned]).toEqual([[5], [5], [SLOT]])
    wants.want(A, 5, waiter, within(1000))
    expect(requests.asked).toHaveLength(2)
  })

  const outcomes = [
    ['came', () => answer(0), 5],
    ['cannot be had', () => fail(0, 'CORRUPT'), 'CORRUPT'],
    ['is too late', () => vi.advanceTimersByTime(1000), 'TIMEOUT'],
  ] as const

  it.each(outcomes)(
    'that %s is told to the others too when one of them throws, and that one hears what it threw',
    (_what, happen, told) => {
      const bug = new Error('a bug')
      waiter.onTold = () => {
        throw bug
      }
      wants.want(A, 5, waiter, within(1000))
      wants.want(A, 5, other, within(1000))
      happen()
      expect([waiter.told, other.told]).toEqual([[told], [told]])
      expect([waiter.broken, other.broken]).toEqual([[bug], []])
      if (told === 5) expect(unpinned).toEqual([SLOT])
    },
  )

  it.each(outcomes)('that %s is told to nobody who was forgotten while others were told', (_what, happen, expected) => {
    const waiters = Array.from({ length: 4 }, () => new Waiter())
    const [first, second, , fourth] = waiters as [Waiter, Waiter, Waiter, Waiter]
    first.onTold = () => {
      wants.forget(second)
      wants.forget(fourth)
    }
    for (const each of waiters) wants.want(A, 5, each, within(1000))
    happen()
    expect(waiters.map(({ told }) => told)).toEqual([[expected], [], [expected], []])
  })

  it('that nobody waits for any more is not brought, and what comes of it is let go', () => {
    wants.want(A, 5, waiter, within(1000))
    wants.want(A, 5, other, within(1000))
    wants.forget(waiter)
    expect(requests.cancelled).toEqual([])
    wants.forget(other)
    expect(requests.cancelled).toEqual([0])
    const third = new Waiter()
    wants.want(A, 5, third, within(1000))
    expect(requests.asked).toHaveLength(2)
    answer(0)
    expect([third.told, unpinned]).toEqual([[], [SLOT]])
    wants.want(A, 5, other, within(1000))
    expect(requests.asked).toHaveLength(2)
    answer(1)
    expect([waiter.told, other.told, third.told]).toEqual([[], [5], [5]])
  })
})

describe('a deadline', () => {
  it('is that of who waits: it counts from his arrival, and others wait on', () => {
    wants.want(A, 5, waiter, within(1000))
    vi.advanceTimersByTime(900)
    wants.want(A, 5, other, within(20_000))
    vi.advanceTimersByTime(99)
    expect(waiter.told).toEqual([])
    vi.advanceTimersByTime(1)
    expect([waiter.told, other.told, requests.cancelled]).toEqual([['TIMEOUT'], [], []])
    vi.advanceTimersByTime(19_000)
    answer(0)
    expect(other.told).toEqual([5])
    vi.advanceTimersByTime(60_000)
    expect([waiter.told, other.told]).toEqual([['TIMEOUT'], [5]])
  })

  it('of one who comes later may be the earlier', () => {
    wants.want(A, 5, waiter, within(20_000))
    wants.want(A, 5, other, within(10))
    vi.advanceTimersByTime(10)
    expect([waiter.told, other.told]).toEqual([[], ['TIMEOUT']])
    vi.advanceTimersByTime(20_000)
    expect([waiter.told, requests.cancelled]).toEqual([['TIMEOUT'], [0]])
  })

  it.each(['UNAVAILABLE', 'TIMEOUT'] as const)('holds to the end: %s is asked for again until then', code => {
    wants.want(A, 5, waiter, within(60_000))
    const until = performance.now() + 57_000
    while (performance.now() < until) {
      fail(requests.asked.length - 1, code)
      const asked = requests.asked.length
      vi.advanceTimersByTime(2000)
      expect([requests.asked.length, waiter.told]).toEqual([asked + 1, []])
    }
    vi.advanceTimersByTime(3000)
    expect(waiter.told).toEqual([code])
  })

  it('has nobody wait for what will not pass', () => {
    wants.want(A, 5, waiter, within(60_000))
    fail(0, 'CORRUPT')
    expect(waiter.told).toEqual(['CORRUPT'])
    vi.advanceTimersByTime(60_000)
    expect(requests.asked).toHaveLength(1)
  })

  it.each([2 ** 31, 2 ** 33])('may be %d ms away', ms => {
    wants.want(A, 5, waiter, within(ms))
    vi.advanceTimersByTime(ms - 1)
    expect(waiter.told).toEqual([])
    vi.advanceTimersByTime(1)
    expect(waiter.told).toEqual(['TIMEOUT'])
  })
})

describe('a share', () => {
  const handles = (): number[] => requests.asked.map(({ handle }) => handle)

  it('is what a restore has under way; the rest waits its turn', () => {
    for (let chunk = 0; chunk < 1000; chunk++) wants.want(A, chunk, waiter, within(60_000))
    wants.want(B, 0, other, within(60_000))
    expect(handles().filter(handle => handle === 1)).toHaveLength(RESTORE_REQUESTS_MAX)
    expect(handles().at(-1)).toBe(2)
    for (let request = 0; requests.asked.length > request; request++) answer(request)
    expect(waiter.told).toEqual(Array.from({ length: 1000 }, (_, chunk) => chunk))
  })

  it('of a tenant whose store hangs leaves places for another', () => {
    start(2 * RESTORE_REQUESTS_MAX)
    for (let handle = 10; handle < 20; handle++) {
      for (let chunk = 0; chunk < 100; chunk++)
        wants.want({ handle, owner: { tenant: 'acme', restore: `r${handle}` } }, chunk, waiter, within(60_000))
    }
    const before = handles().length
    expect(before).toBeLessThan(2 * RESTORE_REQUESTS_MAX)
    wants.want(OTHER, 0, other, within(60_000))
    expect(handles().slice(before)).toEqual([3])
  })

  it('is given back by those who do not wait any more', () => {
    for (let chunk = 0; chunk < 1000; chunk++) wants.want(A, chunk, waiter, within(1000))
    vi.advanceTimersByTime(1000)
    expect(waiter.told).toEqual(Array.from({ length: 1000 }, () => 'TIMEOUT'))
    expect(requests.cancelled).toHaveLength(RESTORE_REQUESTS_MAX)
    wants.want(A, 0, other, within(1000))
    expect(requests.asked).toHaveLength(RESTORE_REQUESTS_MAX)
    fail(0, 'CLOSED')
    expect(requests.asked.at(-1)).toMatchObject({ handle: 1, chunk: 0 })
  })
})
