import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { CHUNK_PAGES, endsPack, gather, isZeroPage, markPages, mix64, PAGE_BYTES, stretchesOf } from '../src/chunk.ts'

describe('mix64', () => {
  // Computed with arbitrary-precision integers from the formula in docs/FORMAT.md section 5.3.
  it.each([
    [0n, 0n],
    [1n, 0x5692161d100b05e5n],
    [0x9e3779b97f4a7c15n, 0xe220a8397b1dcdafn],
  ])('of %i', (input, output) => {
    expect(mix64(input)).toBe(output)
  })
})

describe('packs', () => {
  it('end at 128 pages at the latest', () => {
    expect(endsPack(3, CHUNK_PAGES)).toBe(true)
  })

  it('are disturbed by one page more in one place only', () => {
    const packs = (pages: readonly number[]): string[] => {
      const found: string[] = []
      const pack: number[] = []
      for (const page of pages) {
        pack.push(page)
        if (endsPack(page, pack.length)) found.push(pack.splice(0).join())
      }
      return [...found, pack.join()]
    }
    const pages = Array.from({ length: 4000 }, (_, i) => i * 3)
    const before = packs(pages)
    const after = new Set(packs([...pages, 5000].sort((a, b) => a - b)))
    const lost = before.filter(pack => !after.has(pack)).length
    expect(lost).toBeGreaterThan(0)
    expect(lost).toBeLessThanOrEqual(4)
  })
})

describe('zero pages', () => {
  it('are told from pages with a single byte set anywhere', () => {
    const page = new Uint8Array(PAGE_BYTES)
    expect(isZeroPage(page, 0)).toBe(true)
    fc.assert(
      fc.property(fc.nat(PAGE_BYTES - 1), fc.integer({ min: 1, max: 255 }), (at, value) => {
        page[at] = value
        const zero = isZeroPage(page, 0)
        page[at] = 0
        return !zero
      }),
    )
  })
})

describe('a chunk laid out by position', () => {
  const marksArbitrary = fc.array(fc.constantFrom(0, 0, 0, 1), { minLength: 1, maxLength: CHUNK_PAGES })

  it('keeps every used page, in order, and no long run of zeros', () => {
    fc.assert(
      fc.property(marksArbitrary, pages => {
        const bytes = Buffer.alloc(pages.length * PAGE_BYTES)
        pages.forEach((used, page) => {
          if (used) bytes.fill(page + 1, page * PAGE_BYTES, (page + 1) * PAGE_BYTES)
        })
        const marks = new Uint8Array(CHUNK_PAGES)
        expect(markPages(bytes, marks)).toBe(pages.filter(Boolean).length)
        const stretches = stretchesOf(marks, pages.length)
        const whole = Buffer.from(bytes)
        const kept = gather(bytes, stretches)
        let at = 0
        const restored = new Uint8Array(whole.length)
        for (const { page, count } of stretches) {
          restored.set(bytes.subarray(at * PAGE_BYTES, (at + count) * PAGE_BYTES), page * PAGE_BYTES)
          at += count
        }
        expect(at).toBe(kept)
        expect(Buffer.compare(restored, whole)).toBe(0)
        expect(kept).toBeLessThanOrEqual(4 * pages.filter(Boolean).length)
      }),
    )
  })
})
