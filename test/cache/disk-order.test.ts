/** The order of a disk cache against the plainest list there is, and through its index file. */
import { hash } from 'node:crypto'
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { decodeIndex, encodeIndex } from '../../src/cache/disk-index.ts'
import { Order } from '../../src/cache/disk-order.ts'

const idOf = (number: number): string => hash('sha256', `${number}`)
const id = fc.nat(9).map(idOf)
const step = fc.oneof(
  fc.record({ kind: fc.constant('add' as const), id, sizeBytes: fc.nat(20_000) }),
  fc.record({ kind: fc.constant('touch' as const), id }),
  fc.record({ kind: fc.constant('drop' as const), id }),
  fc.record({ kind: fc.constant('dropOldest' as const) }),
)

it('is that of use, with the bytes that files take', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 100 }), steps => {
      const order = new Order()
      let list: [string, number][] = []
      const without = (id: string) => list.filter(([other]) => other !== id)
      for (const step of steps) {
        const found = 'id' in step ? list.find(([other]) => other === step.id) : undefined
        if (step.kind === 'add') {
          order.add(step.id, step.sizeBytes)
          list = [...without(step.id), [step.id, step.sizeBytes]]
        } else if (step.kind === 'touch') {
          expect(order.touch(step.id)).toBe(found?.[1])
          if (found !== undefined) list = [...without(step.id), found]
        } else if (step.kind === 'drop') {
          order.drop(step.id)
          list = without(step.id)
        } else expect(order.dropOldest()).toBe(list.shift()?.[0])
        expect([...order.oldestFirst()]).toEqual(list)
        expect(order.bytes).toBe(list.reduce((sum, [, sizeBytes]) => sum + Math.max(1, Math.ceil(sizeBytes / 4096)) * 4096, 0))
      }
    }),
  )
})

it('finds the oldest after very many uses too', () => {
  const order = new Order()
  for (let number = 0; number < 100; number++) order.add(idOf(number), 1)
  expect(order.dropOldest()).toBe(idOf(0))
  for (let use = 0; use < 200_000; use++) order.touch(idOf(1 + (use % 50)))
  expect(order.dropOldest()).toBe(idOf(51))
})

it('outlives the process in its index', async () => {
  const order = new Order()
  for (let number = 0; number < 10_000; number++) order.add(idOf(number), number * 10 ** 6)
  order.touch(idOf(5))
  expect([...(await decodeIndex(encodeIndex(order))).oldestFirst()]).toEqual([...order.oldestFirst()])
  expect((await decodeIndex(encodeIndex(new Order()))).entries).toBe(0)
})
