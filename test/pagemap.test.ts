import fc from 'fast-check'
import { expect, it } from 'vitest'
import { decodeRuns, encodeRuns } from '../src/manifest/runs.ts'
import { type PageMap, PageMapBuilder, ZERO } from '../src/pagemap.ts'

const CHUNKS = 6
const CHUNK_PAGES = new Uint8Array(CHUNKS).fill(128)

/** An image as a list of pages: where each lies. */
const pages = fc.array(
  fc.record({ chunk: fc.integer({ min: ZERO, max: CHUNKS - 1 }), first: fc.nat(100), count: fc.integer({ min: 1, max: 28 }) }),
  { maxLength: 40 },
)

function build(runs: readonly { chunk: number; first: number; count: number }[]): {
  map: PageMap
  model: { chunk: number; first: number }[]
} {
  const builder = new PageMapBuilder()
  const model: { chunk: number; first: number }[] = []
  for (const { chunk, first, count } of runs) {
    builder.append(count, chunk, first)
    for (let i = 0; i < count; i++) model.push({ chunk, first: chunk === ZERO ? 0 : first + i })
  }
  return { map: builder.build(), model }
}

it('locates every page where it was put, and says how many follow', () => {
  fc.assert(
    fc.property(pages, runs => {
      const { map, model } = build(runs)
      expect(map.pageCount).toBe(model.length)
      model.forEach((where, page) => {
        const { chunk, first, count } = map.locate(page)
        expect({ chunk, first }).toEqual(where)
        for (let i = 1; i < count; i++) expect(model[page + i]).toEqual({ chunk, first: chunk === ZERO ? 0 : first + i })
      })
    }),
  )
})

it('cuts runs to an interval', () => {
  fc.assert(
    fc.property(pages, fc.nat(400), fc.nat(400), (runs, x, y) => {
      const { map, model } = build(runs)
      const from = Math.min(x, y, model.length)
      const to = Math.min(Math.max(x, y), model.length)
      const seen = [...map.runs(from, to)].flatMap(({ page, count, chunk, first }) =>
        Array.from({ length: count }, (_, i) => ({ page: page + i, chunk, first: chunk === ZERO ? 0 : first + i })),
      )
      expect(seen).toEqual(model.slice(from, to).map((where, i) => ({ page: from + i, ...where })))
    }),
  )
})

it('survives its codec', () => {
  fc.assert(
    fc.property(pages, runs => {
      const { map } = build(runs)
      const decoded = decodeRuns(encodeRuns(map), map.runCount, map.pageCount, CHUNK_PAGES)
      expect(decoded).toEqual(map)
    }),
  )
})

it('refuses runs that leave their chunk or do not cover the image', () => {
  const { map } = build([{ chunk: 0, first: 100, count: 28 }])
  const column = encodeRuns(map)
  expect(() => decodeRuns(column, 1, 28, Uint8Array.of(127))).toThrow(RangeError)
  expect(() => decodeRuns(column, 1, 28, Uint8Array.of())).toThrow(RangeError)
  expect(() => decodeRuns(column, 1, 27, CHUNK_PAGES)).toThrow(RangeError)
  expect(() => decodeRuns(column, 1, 29, CHUNK_PAGES)).toThrow(RangeError)
  expect(() => decodeRuns(column, 2, 28, CHUNK_PAGES)).toThrow(RangeError)
})
