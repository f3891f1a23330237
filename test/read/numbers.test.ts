import { randomFillSync } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { ChunkNumbers, type IdentityColumns, SLICE_CHUNKS } from '../../src/engine/numbers.ts'
import { codeOfAsync } from '../code-of.ts'
import { watchForLoops } from '../watchdog.ts'

watchForLoops()

/** What tells a chunk apart: each part is a small number, so that many share two of three. */
interface Identity {
  readonly id: number
  readonly key: number
  readonly pages: number
}

function columnsOf(chunks: readonly Identity[]): IdentityColumns {
  const ids = new Uint8Array(chunks.length * 32)
  const keys = new Uint8Array(chunks.length * 32)
  chunks.forEach(({ id, key }, index) => {
    new DataView(ids.buffer).setUint32(index * 32 + 28, id)
    new DataView(keys.buffer).setUint32(index * 32 + 28, key)
  })
  return { ids, keys, pages: Uint8Array.from(chunks, ({ pages }) => pages) }
}

const nameOf = ({ id, key, pages }: Identity): string => `${id} ${key} ${pages}`
const many = (count: number, from = 0): Identity[] => Array.from({ length: count }, (_, index) => ({ id: from + index, key: 0, pages: 1 }))

function randomColumns(count: number): IdentityColumns {
  const random = (bytes: number): Uint8Array => randomFillSync(new Uint8Array(bytes))
  return { ids: random(32 * count), keys: random(32 * count), pages: new Uint8Array(count).fill(128) }
}

describe('numbers', () => {
  it('are shared by what is the same chunk, and by nothing else', async () => {
    const numbers = new ChunkNumbers()
    const [a, same, otherKey, otherPages, otherId] = await numbers.hold(
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

  it('stay what they are while more come than there was room for', async () => {
    const numbers = new ChunkNumbers()
    const first = await numbers.hold(columnsOf(many(100)))
    const rest = await numbers.hold(columnsOf(many(5000, 100)))
    expect(await numbers.hold(columnsOf(many(100)))).toEqual(first)
    expect(new Set([...first, ...rest]).size).toBe(5100)
  })

  it('are used again, as late as possible', async () => {
    const numbers = new ChunkNumbers()
    const first = await numbers.hold(columnsOf(many(1)))
    await numbers.release(first)
    expect(numbers.size).toBe(0)
    const held = await numbers.hold(columnsOf(many(1023, 1)))
    expect([...held]).not.toContain(first[0])
    expect([...(await numbers.hold(columnsOf(many(1, 5000))))]).toEqual([...first])
  })

  it('are used again in the order in which they were given back', async () => {
    const numbers = new ChunkNumbers(4)
    const [a, b, c, d] = await Promise.all([0, 1, 2, 3].map(id => numbers.hold(columnsOf(many(1, id)))))
    for (const gone of [c, a, d]) await numbers.release(gone!)
    const again = await numbers.hold(columnsOf(many(2, 10)))
    expect([...again]).toEqual([c![0], a![0]])
    await numbers.release(b!)
    expect([...(await numbers.hold(columnsOf(many(2, 20))))]).toEqual([d![0], b![0]])
  })

  it('are found as quickly when a manifest was made to have all its chunks look alike', async () => {
    const chunks = 200_000
    const keys = new Uint8Array(32 * chunks)
    // Only the high bits of one word differ: the sum of a hash without a key would not.
    for (let index = 0; index < chunks; index++) new DataView(keys.buffer).setUint32(32 * index, index << 12, true)
    for (let index = 0; index < chunks; index++) keys[32 * index + 9] = index >> 16
    const numbers = new ChunkNumbers()
    // 20 billion comparisons if they were all in one bucket: far beyond the test's time.
    const held = await numbers.hold({ ids: new Uint8Array(32 * chunks), keys, pages: new Uint8Array(chunks).fill(1) })
    await numbers.release(held)
    expect(numbers.size).toBe(0)
  })

  it('that somebody keeps are nobody else’s, although their snapshot is closed', async () => {
    const numbers = new ChunkNumbers()
    const held = await numbers.hold(columnsOf(many(1)))
    const [kept] = held
    numbers.retain(kept!)
    await numbers.release(held)
    expect([...(await numbers.hold(columnsOf(many(3000, 1))))]).not.toContain(kept)
    expect([...(await numbers.hold(columnsOf(many(1))))]).toEqual([kept])
    numbers.drop(kept!)
    expect(numbers.size).toBe(3001)
  })

  it('behave like a map of counts, whatever is held and released', async () => {
    const chunk = fc.record({ id: fc.nat(400), key: fc.nat(2), pages: fc.integer({ min: 1, max: 3 }) })
    const table = fc.oneof(fc.array(chunk, { maxLength: 30 }), fc.array(chunk, { minLength: 200, maxLength: 900 }))
    const step = fc.oneof(table, fc.nat(50))
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 25 }), async steps => {
        const numbers = new ChunkNumbers()
        const live = new Map<string, { readonly number: number; holds: number }>()
        const tables: { readonly chunks: readonly Identity[]; readonly held: Uint32Array }[] = []
        for (const next of steps) {
          if (Array.isArray(next)) {
            const held = await numbers.hold(columnsOf(next))
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
            await numbers.release(gone.held)
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

describe('more chunks than there are numbers', () => {
  it('leave none held of the table that did not fit', async () => {
    const numbers = new ChunkNumbers(3000)
    const held = await numbers.hold(randomColumns(2000))
    expect(await codeOfAsync(() => numbers.hold(randomColumns(1001)))).toBe('NO_SPACE')
    await numbers.release(held)
    expect(numbers.size).toBe(0)
    expect(new Set(await numbers.hold(randomColumns(3000))).size).toBe(3000)
  })

  it('wait for those that are being given back', async () => {
    const numbers = new ChunkNumbers(3000)
    const held = await numbers.hold(randomColumns(3000))
    const released = numbers.release(held)
    expect(new Set(await numbers.hold(randomColumns(3000))).size).toBe(3000)
    await released
    expect(numbers.size).toBe(3000)
  })
})

describe('a table that is taken up by turns', () => {
  /** How many chunks were interned in each turn of the event loop, of whatever is under way. */
  async function turnsOf(numbers: ChunkNumbers, work: Promise<unknown>): Promise<number[]> {
    const steps: number[] = []
    let isDone = false
    work.finally(() => {
      isDone = true
    })
    for (let before = numbers.size; !isDone; before = numbers.size) {
      await new Promise(setImmediate)
      steps.push(Math.abs(numbers.size - before))
    }
    return steps
  }

  it('takes no turn of more than a slice, and neither does giving back', async () => {
    const numbers = new ChunkNumbers()
    const chunks = 20 * SLICE_CHUNKS
    const holds = Promise.all([1, 2, 3].map(() => numbers.hold(randomColumns(chunks))))
    expect(Math.max(...(await turnsOf(numbers, holds)))).toBeLessThanOrEqual(SLICE_CHUNKS)
    const [a, b, c] = await holds
    const releases = Promise.all([a, b, c].map(held => numbers.release(held!)))
    expect(Math.max(...(await turnsOf(numbers, releases)))).toBeLessThanOrEqual(SLICE_CHUNKS)
    expect(numbers.size).toBe(0)
  })

  it('does not make a small one wait for a large one', async () => {
    const numbers = new ChunkNumbers()
    const large = numbers.hold(randomColumns(50 * SLICE_CHUNKS))
    await numbers.hold(randomColumns(1))
    expect(numbers.size).toBeLessThan(10 * SLICE_CHUNKS)
    await large
  })

  it('ends when it is not wanted any more, and holds nothing', async () => {
    const numbers = new ChunkNumbers()
    const controller = new AbortController()
    const held = numbers.hold(randomColumns(20 * SLICE_CHUNKS), controller.signal)
    await new Promise(setImmediate)
    controller.abort(new Error('enough'))
    await expect(held).rejects.toThrow('enough')
    await expect.poll(() => numbers.size).toBe(0)
  })
})
