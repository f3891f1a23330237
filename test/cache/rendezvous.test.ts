/** Which nodes an id belongs to, and what changes when there are more of them. */
import { createHash } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { rendezvous } from '../../src/cache/rendezvous.ts'

const IDS = Array.from({ length: 4_000 }, (_, number) => createHash('sha256').update(`${number}`).digest('hex'))
const nodes = (count: number): { name: string }[] => Array.from({ length: count }, (_, number) => ({ name: `10.0.0.${number}:6379` }))

async function placed(count: number, each: number): Promise<string[][]> {
  const places = await rendezvous(nodes(count))
  return IDS.map(id => places.nodesOf(id, each).map(({ name }) => name))
}

describe('rendezvous hashing', () => {
  it('gives different nodes, the same whatever order they are named in', async () => {
    const places = await rendezvous(nodes(8))
    const others = await rendezvous(nodes(8).toReversed())
    for (const id of IDS.slice(0, 100)) {
      const five = places.nodesOf(id, 5)
      expect(new Set(five).size).toBe(5)
      expect(others.nodesOf(id, 5)).toEqual(five)
      expect(places.nodesOf(id, 1)).toEqual(five.slice(0, 1))
    }
  })

  it('is what it was in the version before: another choice would empty every cache', async () => {
    const places = await rendezvous(nodes(6))
    expect(places.nodesOf('ab'.repeat(32), 5).map(({ name }) => name)).toMatchInlineSnapshot(`
      [
        "10.0.0.4:6379",
        "10.0.0.1:6379",
        "10.0.0.0:6379",
        "10.0.0.5:6379",
        "10.0.0.3:6379",
      ]
    `)
  })

  it.each([1, 2, 5, 9])('spreads ids evenly over %i nodes', async count => {
    const counts = Object.values(Object.groupBy(await placed(count, 1), ([first]) => first!)).map(ids => ids!.length)
    expect(counts).toHaveLength(count)
    for (const ids of counts) expect(Math.abs(ids * count - IDS.length) / IDS.length).toBeLessThan(0.15)
  })

  it.each([1, 4, 9])('moves only the share of a node that is added to %i', async count => {
    const [before, after] = [await placed(count, 1), await placed(count + 1, 1)]
    const moved = after.filter(([node], index) => node !== before[index]![0])
    expect(moved.every(([node]) => node === nodes(count + 1).at(-1)!.name)).toBe(true)
    expect(Math.abs((moved.length * (count + 1)) / IDS.length - 1)).toBeLessThan(0.15)
  })

  it('keeps four of five nodes of every id when one is added', async () => {
    const [before, after] = [await placed(7, 5), await placed(8, 5)]
    for (const [index, five] of after.entries()) expect(five.filter(node => before[index]!.includes(node)).length).toBeGreaterThanOrEqual(4)
  })
})
