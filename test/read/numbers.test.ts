import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { ChunkNumbers, type IdentityColumns } from '../../src/engine/numbers.ts'

/** What tells a chunk apart: each part is a small number, so that many share two of three. */
interface Identity {
  readonly id: number
  readonly key: number
  readonly pages: number
}

/** Ids of which many hash alike. */
function columnsOf(chunks: readonly Identity[]): IdentityColumns {
  const ids = new Uint8Array(chunks.length * 32)
  const keys = new Uint8Array(chunks.length * 32)
  chunks.forEach(({ id, key }, index) => {
    ids[index * 32] = id % 251
    new DataView(ids.buffer).setUint32(index * 32 + 28, id)
    new DataView(keys.buffer).setUint32(index * 32 + 28, key)
  })
  return { ids, keys, pages: Uint8Array.from(chunks, ({ pages }) => pages) }
}

const nameOf = ({ id, key, pages }: Identity): string => `${id} ${key} ${pages}`
const many = (count: number, from = 0): Identity[] => Array.from({ length: count }, (_, index) => ({ id: from + index, key: 0, pages: 1 }))

describe('numbers', () => {
  it('are shared by what is the same chunk, and by nothing else', () => {
    const numbers = new ChunkNumbers()
    const [a, same, otherKey, otherPages, otherId] = numbers.hold(
      columnsOf([
        { id: 1, key: 1, pages: 5 },
        { id: 1, key: 1, pages: 5 },
        { id: 1, key: 2, pages: 5 },
        { id: 1, key: 1, pages: 6 },
        { id: 5, key: 1, pages: 5 },
      ]),
    )
    expect(same).toBe(a)
    expect(new Set([a, otherKey, otherPages, otherId]).size).toBe(4)
    expect(numbers.size).toBe(4)
  })

  it('stay what they are while more come than there was room for', () => {
    const numbers = new ChunkNumbers()
    const first = numbers.hold(columnsOf(many(100)))
    const rest = numbers.hold(columnsOf(many(5000, 100)))
    expect(numbers.hold(columnsOf(many(100)))).toEqual(first)
    expect(new Set([...first, ...rest]).size).toBe(5100)
  })

  it('are used again, as late as possible', () => {
    const numbers = new ChunkNumbers()
    const first = numbers.hold(columnsOf(many(1)))
    numbers.release(first)
    expect(numbers.size).toBe(0)
    const held = numbers.hold(columnsOf(many(1023, 1)))
    expect([...held]).not.toContain(first[0])
    expect([...numbers.hold(columnsOf(many(1, 5000)))]).toEqual([...first])
  })

  it('that somebody keeps are nobody else’s, although their snapshot is closed', () => {
    const numbers = new ChunkNumbers()
    const [kept] = numbers.hold(columnsOf(many(1)))
    numbers.retain(kept!)
    numbers.release([kept!])
    expect([...numbers.hold(columnsOf(many(3000, 1)))]).not.toContain(kept)
    expect([...numbers.hold(columnsOf(many(1)))]).toEqual([kept])
  })

  it('behave like a map of counts, whatever is held and released', () => {
    const chunk = fc.record({ id: fc.nat(400), key: fc.nat(2), pages: fc.integer({ min: 1, max: 3 }) })
    const table = fc.oneof(fc.array(chunk, { maxLength: 30 }), fc.array(chunk, { minLength: 200, maxLength: 900 }))
    const step = fc.oneof(table, fc.nat(50))
    fc.assert(
      fc.property(fc.array(step, { maxLength: 25 }), steps => {
        const numbers = new ChunkNumbers()
        const live = new Map<string, { readonly number: number; holds: number }>()
        const tables: { readonly chunks: readonly Identity[]; readonly held: Uint32Array }[] = []
        for (const next of steps) {
          if (Array.isArray(next)) {
            const held = numbers.hold(columnsOf(next))
            next.forEach((chunk, index) => {
              const known = live.get(nameOf(chunk)) ?? { number: held[index]!, holds: 0 }
              expect(held[index]).toBe(known.number)
              known.holds++
              live.set(nameOf(chunk), known)
            })
            tables.push({ chunks: next, held })
          } else {
            const [gone] = tables.splice(next % Math.max(1, tables.length), 1)
            if (gone === undefined) continue
            numbers.release(gone.held)
            for (const name of gone.chunks.map(nameOf)) if (--live.get(name)!.holds === 0) live.delete(name)
          }
          expect(numbers.size).toBe(live.size)
          expect(new Set([...live.values()].map(({ number }) => number)).size).toBe(live.size)
        }
      }),
      { numRuns: 150 },
    )
  })
})
