/** Copies on their way into caches: within a budget for each, in bounded number, counted for what they came to. */
import { setImmediate } from 'node:timers/promises'
import { expect, it } from 'vitest'
import { type CountedCache, Fills } from '../../src/cache/fills.ts'
import { TierCounters } from '../../src/stats.ts'

const CHUNK = Buffer.alloc(2 ** 20)
const NONE_BAD = new Set<never>()

/** A cache that takes what it is given when it is told to. */
function heldUp(tier: 'disk' | 'l2'): CountedCache & { readonly puts: ((kept: boolean) => void)[] } {
  const puts: ((kept: boolean) => void)[] = []
  const cache = { tier, name: tier, put: () => new Promise<boolean>(resolve => void puts.push(resolve)) }
  return { cache, counters: new TierCounters(tier), puts } as unknown as ReturnType<typeof heldUp>
}

it('a slow cache drops its own copies, and no other cache any', async () => {
  const [fills, disk, l2] = [new Fills(), heldUp('disk'), heldUp('l2')]
  for (let count = 0; count < 200; count++) {
    fills.start(`${count}`, CHUNK, [disk, l2], NONE_BAD)
    disk.puts.shift()!(true)
    await setImmediate()
  }
  expect(disk.counters).toMatchObject({ fills: 200, fillsDropped: 0 })
  expect(l2.counters).toMatchObject({ fills: 0, fillsDropped: 200 - 64 })
  expect(l2.puts).toHaveLength(16)
  while (l2.puts.length > 0) {
    l2.puts.shift()!(true)
    await setImmediate()
  }
  await fills.settled()
  expect(l2.counters.fills).toBe(64)
  fills.start('later', CHUNK, [l2], NONE_BAD)
  expect(l2.puts).toHaveLength(1)
})

it('one good copy for all is written, and counted as healed where the copy before was bad', async () => {
  const [fills, disk, l2] = [new Fills(), heldUp('disk'), heldUp('l2')]
  fills.start('id', CHUNK, [disk, l2], new Set([disk]))
  for (const { puts } of [disk, l2]) puts[0]!(true)
  fills.start('id', CHUNK, [disk], new Set([disk]))
  disk.puts[1]!(false)
  await fills.settled()
  expect(disk.counters).toMatchObject({ fills: 1, healed: 1, fillsDropped: 1 })
  expect(l2.counters).toMatchObject({ fills: 1, healed: 0, fillsDropped: 0 })
})
