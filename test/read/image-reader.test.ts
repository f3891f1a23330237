import { randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { ABSENT, Arena, ArenaWriter } from '../../src/arena.ts'
import { PAGE_BYTES } from '../../src/chunk.ts'
import { PageMapBuilder, ZERO } from '../../src/pagemap.ts'
import { ImageReader } from '../../src/reader.ts'

const CHUNKS = 6
const CHUNK_PAGES = 20
const contents = Array.from({ length: CHUNKS }, () => randomBytes(CHUNK_PAGES * PAGE_BYTES))

interface RunSpec {
  readonly count: number
  readonly chunk: number
  readonly first: number
}

const runs = fc.array(
  fc
    .record({
      count: fc.integer({ min: 1, max: CHUNK_PAGES }),
      chunk: fc.integer({ min: ZERO, max: CHUNKS - 1 }),
      first: fc.nat(CHUNK_PAGES - 1),
    })
    .map(({ count, chunk, first }): RunSpec => ({ chunk, first, count: chunk === ZERO ? count : Math.min(count, CHUNK_PAGES - first) })),
  { minLength: 1, maxLength: 12 },
)

interface Bench {
  readonly image: Buffer
  readonly arena: ArenaWriter
  readonly reader: ImageReader
}

/** An image of these runs whose last page may be cut; chunk n has number 100 − n and lies in slot n, if it is there. */
function bench(specs: readonly RunSpec[], tailBytes: number, there: readonly number[]): Bench {
  const builder = new PageMapBuilder()
  for (const { count, chunk, first } of specs) builder.append(count, chunk, first)
  const map = builder.build()
  const pages = specs.map(({ count, chunk, first }) =>
    chunk === ZERO ? Buffer.alloc(count * PAGE_BYTES) : contents[chunk]!.subarray(first * PAGE_BYTES, (first + count) * PAGE_BYTES),
  )
  const image = Buffer.concat(pages).subarray(0, (map.pageCount - 1) * PAGE_BYTES + tailBytes)
  const arena = new ArenaWriter(Arena.allocate(CHUNKS))
  for (const chunk of there) {
    contents[chunk]!.copy(arena.pages(chunk))
    arena.publish(100 - chunk, chunk, 0)
  }
  const numbers = Uint32Array.from({ length: CHUNKS }, (_, chunk) => 100 - chunk)
  const { starts, chunks, firsts } = map
  return { image, arena, reader: new ImageReader({ sizeBytes: image.length, starts, chunks, firsts, numbers }, arena) }
}

const all = contents.map((_, chunk) => chunk)
const isIdle = (arena: ArenaWriter): boolean => all.every(slot => !arena.isPinned(slot))

describe('reading what is in the arena', () => {
  it('gives the bytes of the image, wherever a read begins and ends', () => {
    const reads = fc.array(fc.tuple(fc.nat(), fc.nat(40 * PAGE_BYTES)), { minLength: 1, maxLength: 20 })
    fc.assert(
      fc.property(runs, fc.integer({ min: 1, max: PAGE_BYTES }), reads, (specs, tailBytes, asked) => {
        const { image, arena, reader } = bench(specs, tailBytes, all)
        for (const [position, length] of asked) {
          const offset = position % (image.length + 2)
          const target = Buffer.alloc(length, 0xee)
          const bytes = reader.tryReadInto(target, offset)
          expect(bytes).toBe(Math.max(0, Math.min(length, image.length - offset)))
          expect(target.subarray(0, bytes).equals(image.subarray(offset, offset + bytes))).toBe(true)
          expect(target.subarray(bytes).every(byte => byte === 0xee)).toBe(true)
        }
        expect(isIdle(arena)).toBe(true)
      }),
      { numRuns: 200 },
    )
  })

  it('gives all of a read or nothing, and leaves no pin behind', () => {
    fc.assert(
      fc.property(runs, fc.subarray(all), fc.nat(), fc.integer({ min: 1, max: 30 * PAGE_BYTES }), (specs, there, position, length) => {
        const { image, arena, reader } = bench(specs, PAGE_BYTES, there)
        const offset = position % image.length
        const target = Buffer.alloc(length)
        const bytes = reader.tryReadInto(target, offset)
        const end = Math.min(offset + length, image.length)
        let page = 0
        const isThere = specs.every(({ count, chunk }) => {
          const from = page * PAGE_BYTES
          page += count
          return chunk === ZERO || there.includes(chunk) || page * PAGE_BYTES <= offset || from >= end
        })
        expect(bytes).toBe(isThere ? end - offset : 0)
        if (isThere) expect(target.subarray(0, bytes).equals(image.subarray(offset, end))).toBe(true)
        expect(isIdle(arena)).toBe(true)
      }),
      { numRuns: 200 },
    )
  })

  it('finds each page where it lies', () => {
    fc.assert(
      fc.property(runs, fc.array(fc.nat(), { minLength: 1, maxLength: 30 }), (specs, asked) => {
        const { image, reader } = bench(specs, PAGE_BYTES, all)
        const pageCount = image.length / PAGE_BYTES
        for (const any of asked) {
          const page = any % pageCount
          const { chunk, first, count } = reader.locate(page)
          expect(page + count).toBeLessThanOrEqual(pageCount)
          const bytes = image.subarray(page * PAGE_BYTES, (page + count) * PAGE_BYTES)
          if (chunk === ZERO) expect(bytes.every(byte => byte === 0)).toBe(true)
          else expect(bytes.equals(contents[chunk]!.subarray(first * PAGE_BYTES, (first + count) * PAGE_BYTES))).toBe(true)
        }
      }),
      { numRuns: 200 },
    )
  })

  it('pins the chunk that a page lies in', () => {
    const { arena, reader } = bench([{ count: 1, chunk: 3, first: 7 }], PAGE_BYTES, [3])
    const slot = reader.pin(reader.locate(0).chunk)
    expect([slot, arena.isPinned(3)]).toEqual([3, true])
    arena.unpin(slot)
    arena.withdraw(97)
    expect(reader.pin(3)).toBe(ABSENT)
  })
})
