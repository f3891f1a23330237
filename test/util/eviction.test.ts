/** Policies of eviction against the plainest lists there are. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type EvictionPolicy, LeastRecentlyUsed } from '../../src/util/eviction.ts'

const ROWS = 200

/** The same by a list of rows, next victim first, and the rows that were used. */
class PlainLeastRecentlyUsed implements EvictionPolicy {
  rows: number[] = []

  insert(row: number): void {
    this.rows.push(row)
  }

  touched(row: number): void {
    this.remove(row)
    this.insert(row)
  }

  victim(): number | undefined {
    return this.rows[0]
  }

  remove(row: number): void {
    this.rows = this.rows.filter(other => other !== row)
  }
}

const step = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('use' as const), row: fc.nat(ROWS - 1) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('remove' as const), row: fc.nat(ROWS - 1) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('evict' as const) }) },
)

describe('least recently used', () => {
  it('chooses as a plain list does', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 500 }), steps => {
        const [policy, plain]: EvictionPolicy[] = [new LeastRecentlyUsed(), new PlainLeastRecentlyUsed()]
        const inside = new Set<number>()
        for (const one of steps) {
          if (one.kind === 'evict') {
            const victim = policy!.victim()
            expect(victim).toBe(plain!.victim())
            if (victim === undefined) continue
            for (const each of [policy!, plain!]) each.remove(victim)
            inside.delete(victim)
          } else if (one.kind === 'use') {
            for (const each of [policy!, plain!]) inside.has(one.row) ? each.touched(one.row) : each.insert(one.row)
            inside.add(one.row)
          } else if (inside.delete(one.row)) for (const each of [policy!, plain!]) each.remove(one.row)
        }
      }),
    )
  })

  it('has no victim when it is empty, and any row may come', () => {
    const policy = new LeastRecentlyUsed()
    expect(policy.victim()).toBeUndefined()
    for (const row of [5_000_000, 0, 64, 63]) policy.insert(row)
    for (const row of [5_000_000, 0, 64, 63]) {
      expect(policy.victim()).toBe(row)
      policy.remove(row)
    }
    expect(policy.victim()).toBeUndefined()
  })

  it('lets another one leave in place of a victim that was touched', () => {
    const policy = new LeastRecentlyUsed()
    for (const row of [1, 2, 3]) policy.insert(row)
    policy.touched(policy.victim()!)
    expect(policy.victim()).toBe(2)
  })
})

it('least recently used lists what is in as it was at the start', () => {
  const policy = new LeastRecentlyUsed()
  for (const row of [3, 1, 2]) policy.insert(row)
  const rows = policy.victimsFirst()
  expect(rows.next().value).toBe(3)
  policy.touched(1)
  policy.remove(2)
  expect([...rows]).toEqual([1, 2])
  expect([...policy.victimsFirst()]).toEqual([3, 1])
})
