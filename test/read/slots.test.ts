import { describe, expect, it } from 'vitest'
import { ArenaSlots, type EmptySlot } from '../../src/arena/slots.ts'
import { ABSENT, Arena, ArenaWriter } from '../../src/arena.ts'
import { VirtualClock } from '../../src/testing.ts'
import type { Owner } from '../../src/util/gate.ts'
import { Urgency } from '../../src/util/urgency.ts'
import { codeOfAsync } from '../code-of.ts'

/** Each of a tenant of his own, so that none holds too much of so few slots. */
const of = (tenant: number): Owner => ({ tenant: `${tenant}`, restore: '' })

interface Bench {
  readonly clock: VirtualClock
  readonly arena: ArenaWriter
  readonly slots: ArenaSlots
  readonly evicted: number[]
  /** Brings a chunk into the arena. */
  readonly bring: (number: number, pins?: number) => Promise<number>
}

function bench(count: number): Bench {
  const clock = new VirtualClock()
  const arena = new ArenaWriter(Arena.allocate(count))
  const evicted: number[] = []
  const slots = new ArenaSlots(arena, clock, number => void evicted.push(number))
  return {
    clock,
    arena,
    slots,
    evicted,
    async bring(number, pins = 0) {
      return (await slots.acquire({})).publish(number, pins)
    },
  }
}

describe('the slots of an arena', () => {
  it('are all used before anything leaves, and then the oldest does', async () => {
    const { arena, slots, evicted, bring } = bench(3)
    for (const number of [10, 11, 12]) await bring(number)
    expect([slots.size, evicted]).toEqual([3, []])
    await bring(13)
    await bring(14)
    expect([slots.size, slots.evictions, evicted]).toEqual([3, 2, [10, 11]])
    expect([10, 11, 12, 13, 14].filter(number => arena.has(number))).toEqual([12, 13, 14])
  })

  it('give what was read a second chance, once', async () => {
    const { arena, evicted, bring } = bench(3)
    for (const number of [10, 11, 12]) await bring(number)
    arena.unpin(arena.pin(10))
    await bring(13)
    await bring(14)
    await bring(15)
    expect(evicted).toEqual([11, 12, 10])
  })

  it('begin as not read, whoever read what was there before', async () => {
    const { arena, slots, evicted, bring } = bench(2)
    const slot = await slots.acquire({})
    arena.publish(10, slot.index, 0)
    arena.unpin(arena.pin(10))
    arena.withdraw(10)
    slot.publish(11, 0)
    expect(arena.takeUsed(slot.index)).toBe(false)
    await bring(12)
    expect(evicted).toEqual([])
  })

  it('say where a chunk lies that came twice, whether somebody waits for it or not', async () => {
    const { arena, slots, bring } = bench(4)
    const first = await bring(10)
    const [second, third] = [await slots.acquire({}), await slots.acquire({})]
    expect([second.publish(10, 0), third.publish(10, 2)]).toEqual([first, first])
    expect([new Int32Array(arena.memory.pins)[first], slots.size]).toEqual([2, 1])
  })

  it('give way in the end, although all were read', async () => {
    const { arena, evicted, bring } = bench(3)
    for (const number of [10, 11, 12]) await bring(number)
    for (const number of [10, 11, 12]) arena.unpin(arena.pin(number))
    await bring(13)
    expect(evicted).toEqual([10])
  })

  it('leave in a bounded step, however many were read since the last look', async () => {
    const { arena, evicted, bring } = bench(1000)
    for (let number = 0; number < 1000; number++) await bring(number)
    for (let number = 0; number < 1000; number++) arena.unpin(arena.pin(number))
    let looks = 0
    const takeUsed = arena.takeUsed.bind(arena)
    arena.takeUsed = slot => {
      looks++
      return takeUsed(slot)
    }
    await bring(1000)
    expect([evicted.length, looks <= 260]).toEqual([1, true])
  })

  it('stay what they are while they are pinned', async () => {
    const { arena, evicted, bring } = bench(2)
    const pinned = await bring(10, 1)
    for (let number = 11; number < 20; number++) expect(await bring(number)).not.toBe(pinned)
    expect(evicted).not.toContain(10)
    arena.unpin(pinned)
    for (let number = 20; number < 23; number++) await bring(number)
    expect(evicted).toContain(10)
    expect(arena.pin(10)).toBe(ABSENT)
  })

  it('are waited for while all are pinned: demands first, each in the order of arrival', async () => {
    const { clock, arena, slots, bring } = bench(2)
    const held = [await bring(10, 1), await bring(11, 2)]
    const order: string[] = []
    const waiting = (['prefetch', 'demand', 'prefetch', 'demand'] as const).map(async (priority, index) => {
      const slot = await slots.acquire({ urgency: new Urgency(priority), owner: of(index) })
      order.push(`${priority} ${index}`)
      slot.abandon()
    })
    await clock.advance(50)
    expect(order).toEqual([])
    arena.unpin(held[0]!)
    await clock.run(Promise.all(waiting))
    expect(order).toEqual(['demand 1', 'demand 3', 'prefetch 0', 'prefetch 2'])
    expect(arena.pin(11)).toBe(held[1])
  })

  it('go to a prefetch that becomes a demand before other prefetches', async () => {
    const { clock, arena, slots, bring } = bench(1)
    const held = await bring(10, 1)
    const order: number[] = []
    const urgencies = [0, 1, 2].map(() => new Urgency('prefetch'))
    const waiting = urgencies.map(async (urgency, index) => {
      const slot = await slots.acquire({ urgency, owner: of(index) })
      order.push(index)
      slot.abandon()
    })
    urgencies[2]!.raise()
    arena.unpin(held)
    await clock.run(Promise.all(waiting))
    expect(order).toEqual([2, 0, 1])
  })

  it('that were waited for in vain are not lost, nor is anybody’s place', async () => {
    const { clock, arena, slots, bring } = bench(1)
    const held = await bring(10, 1)
    const aborter = new AbortController()
    const gone = codeOfAsync(() => slots.acquire({ signal: aborter.signal }))
    const stays = slots.acquire({})
    await clock.advance(5)
    aborter.abort(new EvalError('gone'))
    expect(await gone).toBe('EvalError')
    arena.unpin(held)
    const slot = await clock.run(stays)
    expect(slot.index).toBe(held)
    slot.abandon()
    expect((await slots.acquire({})).index).toBe(held)
    expect(await codeOfAsync(() => slots.acquire({ signal: aborter.signal }))).toBe('EvalError')
  })

  it('are not looked after when nobody waits: no timer is left', async () => {
    const { clock, arena, slots, bring } = bench(1)
    const held = await bring(10, 1)
    const aborter = new AbortController()
    const gone = codeOfAsync(() => slots.acquire({ signal: aborter.signal }))
    aborter.abort(new EvalError('gone'))
    await gone
    await clock.run()
    expect(clock.now()).toBeLessThan(10)
    arena.unpin(held)
  })

  it('are set aside when a reader was faster than the eviction, until he is done', async () => {
    const { clock, arena, slots, evicted } = bench(2)
    // A reader on another thread pins between the look at the pins and the withdrawal: here, within it.
    let pinned = ABSENT
    const withdraw = arena.withdraw.bind(arena)
    arena.withdraw = number => {
      if (pinned === ABSENT) pinned = arena.pin(number)
      withdraw(number)
    }
    for (const number of [10, 11]) (await slots.acquire({})).publish(number, 0)
    const next = await slots.acquire({})
    expect([pinned !== ABSENT, next.index !== pinned, evicted]).toEqual([true, true, [10, 11]])
    let after: EmptySlot | undefined
    const waiting = slots.acquire({ owner: of(1) }).then(slot => {
      after = slot
    })
    await clock.advance(20)
    expect(after).toBe(undefined)
    arena.unpin(pinned)
    await clock.run(waiting)
    expect(after!.index).toBe(pinned)
  })

  it('hold nothing once they are cleared', async () => {
    const { arena, slots, bring } = bench(3)
    for (const number of [10, 11]) await bring(number)
    slots.clear()
    expect([slots.size, arena.pin(10), arena.pin(11)]).toEqual([0, ABSENT, ABSENT])
  })
})
