/** What a VMM may say of its memory, and what not. */
import { describe, expect, it } from 'vitest'
import { parseHandshake } from '../../src/frontend/uffd/handshake.ts'
import { codeOf } from '../code-of.ts'

const PAGE = 4096
const HUGE = 2 ** 21
const IMAGE_PAGES = 4096
/** As mmap gives them. */
const BASE = 0x7f3c_0020_0000
const RIGHT = { base_host_virt_addr: BASE, size: 16 * PAGE, offset: 0, page_size: PAGE, page_size_kib: PAGE }

const parse = (...regions: readonly unknown[]): unknown => parseHandshake(JSON.stringify(regions), IMAGE_PAGES)

describe('regions', () => {
  it('are taken as Firecracker describes them, with fields that nobody knows', () => {
    const second = { base_host_virt_addr: BASE + 2 * HUGE, size: HUGE, offset: 16 * PAGE, page_size: HUGE, colour: [{ a: [1] }] }
    expect(parse(RIGHT, second)).toEqual([
      { address: BASE, sizeBytes: 16 * PAGE, offset: 0, pageBytes: PAGE },
      { address: BASE + 2 * HUGE, sizeBytes: HUGE, offset: 16 * PAGE, pageBytes: HUGE },
    ])
  })

  it('of versions before 1.12 have their page size, in bytes, under another name', () => {
    const { page_size: _, ...old } = RIGHT
    expect(parse(old)).toEqual([expect.objectContaining({ pageBytes: PAGE })])
  })

  it('may touch each other, and the end of the image', () => {
    const size = (IMAGE_PAGES / 2) * PAGE
    expect(parse({ ...RIGHT, size, offset: size }, { ...RIGHT, size, base_host_virt_addr: BASE + size })).toHaveLength(2)
  })

  it.each<[string, object]>([
    ['without an address', { base_host_virt_addr: undefined }],
    ['with an address as text', { base_host_virt_addr: `${BASE}` }],
    ['with a negative address', { base_host_virt_addr: -PAGE }],
    ['with an address beyond 2⁵³', { base_host_virt_addr: 2 ** 53 }],
    ['that end beyond 2⁵³', { base_host_virt_addr: 2 ** 53 - PAGE }],
    ['with an address within a page', { base_host_virt_addr: BASE + 8 }],
    ['with half a page', { size: PAGE / 2 }],
    ['without a size', { size: 0 }],
    ['with a size that is no whole number', { size: 4096.5 }],
    ['that are larger than the image', { size: (IMAGE_PAGES + 1) * PAGE }],
    ['with an offset within a page', { offset: 512 }],
    ['with an offset beyond the image', { offset: IMAGE_PAGES * PAGE }],
    ['with pages of 8 KiB', { page_size: 2 * PAGE }],
    ['with pages of 1 GiB', { page_size: 2 ** 30 }],
    ['with huge pages that are not aligned', { page_size: HUGE, size: HUGE, base_host_virt_addr: BASE + PAGE }],
    ['with half a huge page', { page_size: HUGE, size: HUGE / 2 }],
  ])('%s are refused', (_, wrong) => {
    expect(codeOf(() => parse({ ...RIGHT, ...wrong }))).toBe('BAD_FORMAT')
  })

  it('that overlap are refused, by address or in the image', () => {
    expect(codeOf(() => parse(RIGHT, { ...RIGHT, base_host_virt_addr: BASE + PAGE, offset: HUGE }))).toBe('BAD_FORMAT')
    expect(codeOf(() => parse(RIGHT, { ...RIGHT, base_host_virt_addr: BASE + HUGE, offset: PAGE }))).toBe('BAD_FORMAT')
  })

  it('are at most 256', () => {
    const many = (count: number): object[] =>
      Array.from({ length: count }, (_, i) => ({ ...RIGHT, size: PAGE, base_host_virt_addr: BASE + i * PAGE, offset: i * PAGE }))
    expect(parse(...many(256))).toHaveLength(256)
    expect(codeOf(() => parse(...many(257)))).toBe('BAD_FORMAT')
  })
})

describe('a message', () => {
  it.each(['', '[]', '{}', 'null', '[1]', '[null]', '[[]]', '"[]"', '[{}', '[{"size":1}]]'])('%j is refused', text => {
    expect(codeOf(() => parseHandshake(text, IMAGE_PAGES))).toBe('BAD_FORMAT')
  })

  it('that is exact beyond what numbers hold is refused, not rounded', () => {
    const text = JSON.stringify([RIGHT]).replace(`${BASE}`, '9007199254740993')
    expect(codeOf(() => parseHandshake(text, IMAGE_PAGES))).toBe('BAD_FORMAT')
  })
})
