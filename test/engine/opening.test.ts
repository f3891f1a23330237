/** Opening on the engine's thread and on those beside it. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { Arena } from '../../src/arena.ts'
import { Opening } from '../../src/engine/opening.ts'
import { SEALED_BYTES_MAX } from '../../src/seal.ts'
import { systemClock } from '../../src/util/clock.ts'
import { Slab } from '../../src/util/slab.ts'
import { Urgency } from '../../src/util/urgency.ts'
import { codeOfAsync } from '../code-of.ts'
import { type MarkedStore, markedPages, markedStore } from './marked-store.ts'

const CHUNKS = 24
const PAGES = 2

let marked: MarkedStore
beforeEach(async () => {
  marked = await markedStore(CHUNKS, PAGES)
})
afterEach(() => marked[Symbol.asyncDispose]())

async function bench(threads: number): Promise<{
  readonly opening: Opening
  /** Opens a chunk from the slot of the slab into that of the arena that have its number. */
  readonly open: (chunk: number, urgency?: Urgency) => Promise<void>
  readonly isRight: (chunk: number) => boolean
  readonly spoil: (chunk: number) => void
}> {
  const arena = new Arena(Arena.allocate(CHUNKS))
  const slab = new Slab(CHUNKS, SEALED_BYTES_MAX)
  const sealed = await Promise.all(
    Array.from({ length: CHUNKS }, async (_, chunk) => {
      const bytes = Slab.view(slab, chunk)
      const sizeBytes = await marked.objects.getInto(marked.table.at(chunk).sealed.objectKey, bytes)
      return { slot: chunk, bytes: bytes.subarray(0, sizeBytes), tier: 'origin' as const }
    }),
  )
  const opening = new Opening({ arena: arena.memory, slab }, systemClock, threads)
  return {
    opening,
    open: (chunk, urgency) => opening.open(sealed[chunk]!, marked.table.at(chunk), chunk, { urgency }),
    isRight: chunk => arena.pages(chunk, 0, PAGES).equals(markedPages(chunk, PAGES)),
    spoil: chunk => {
      sealed[chunk]!.bytes[0]! ^= 1
    },
  }
}

describe.each([0, 2])('with %i threads beside the engine’s', threads => {
  it('every chunk is opened where it belongs, whatever its class', async () => {
    const { opening, open, isRight } = await bench(threads)
    for (let round = 0; round < 3; round++) {
      const all = Array.from({ length: CHUNKS }, (_, chunk) =>
        open(chunk, new Urgency((['demand', 'bulk', 'prefetch'] as const)[chunk % 3])),
      )
      await Promise.all(all)
      expect(Array.from({ length: CHUNKS }, (_, chunk) => isRight(chunk))).toEqual(Array(CHUNKS).fill(true))
    }
    await opening.close()
  })

  it('a bad chunk is CORRUPT, and the others are opened', async () => {
    const { opening, open, spoil } = await bench(threads)
    for (let round = 0; round < 3; round++) await Promise.all([open(0), open(1), open(2, new Urgency('prefetch'))])
    for (const chunk of [3, 4, 5]) spoil(chunk)
    const all = [3, 6, 4, 7, 5, 8].map(chunk => codeOfAsync(() => open(chunk, new Urgency(chunk % 2 === 0 ? 'demand' : 'bulk'))))
    expect(await Promise.all(all)).toEqual(['CORRUPT', undefined, 'CORRUPT', undefined, 'CORRUPT', undefined])
    await opening.close()
  })

  it('a lone demand is opened at once, in the turn of the event loop in which it comes', async () => {
    const { opening, open, isRight } = await bench(threads)
    const opened = open(0)
    await Promise.resolve()
    expect(isRight(0)).toBe(true)
    await opened
    await opening.close()
  })

  it('a demand is opened before the prefetches that wait', async () => {
    const { opening, open } = await bench(threads)
    const order: number[] = []
    const note = (chunk: number, urgency?: Urgency): Promise<unknown> => open(chunk, urgency).then(() => order.push(chunk))
    const all = Array.from({ length: CHUNKS - 2 }, (_, chunk) => note(chunk, new Urgency('prefetch')))
    all.push(note(CHUNKS - 2), note(CHUNKS - 1))
    await Promise.all(all)
    expect([order.indexOf(CHUNKS - 2) <= 1, order.indexOf(CHUNKS - 1) < 8]).toEqual([true, true])
    await opening.close()
  })

  it('what waits when it closes is CLOSED, or was opened', async () => {
    const { opening, open } = await bench(threads)
    const all = Array.from({ length: CHUNKS }, (_, chunk) => codeOfAsync(() => open(chunk, new Urgency('prefetch'))))
    await opening.close()
    expect((await Promise.all(all)).every(code => code === undefined || code === 'CLOSED')).toBe(true)
    expect(await codeOfAsync(() => open(0, new Urgency('prefetch')))).toBe('CLOSED')
  })
})
