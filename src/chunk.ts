/**
 * Image bytes to chunks: which pages are zero, which pages go together.
 *
 * Two layouts (docs/FORMAT.md section 5.3). *By position*: one chunk for each range of 512 KiB, for images without a parent; two builds
 * of one base image then share every range that did not change. *Packed*: pages that changed since the parent, densely, because in a
 * real guest the changed ranges are three times the changed pages.
 */

/** Unit of access logs, of dirtiness and of zero elision. */
export const PAGE_BYTES = 4096
/** Pages of the largest chunk, and of a range. */
export const CHUNK_PAGES = 128
/** 512 KiB: AWS's chunk size for the same purpose, and what the figures of docs/FORMAT.md were measured with. */
export const RANGE_BYTES: number = CHUNK_PAGES * PAGE_BYTES

/** Zero pages between two others stay in a chunk if there are fewer: zstd makes next to nothing of them, and the page map stays short. */
const ZERO_RUN_PAGES_MIN = 4

/** Low bits of mix64(page) that must be zero for a pack to end: packs of 80 pages on average, of 128 at most. */
const PACK_CUT_MASK = (1n << 7n) - 1n
const U64 = (1n << 64n) - 1n

const ZERO_PAGE = new Uint8Array(PAGE_BYTES)

/** A stretch of a range that lies contiguously in its chunk: pages [page, page + count) of the range. */
export interface Stretch {
  readonly page: number
  readonly count: number
}

/** Pages needed for that many bytes; the last one may be partly used. */
export function pageCount(bytes: number): number {
  return Math.ceil(bytes / PAGE_BYTES)
}

/** Ranges needed for that many bytes. */
export function rangeCount(bytes: number): number {
  return Math.ceil(bytes / RANGE_BYTES)
}

/** Whether bytes [offset, offset + 4096) are all zero. The first words settle it for almost every page in use. */
export function isZeroPage(bytes: Uint8Array, offset: number): boolean {
  if (bytes[offset] !== 0 || bytes[offset + 2048] !== 0) return false
  return Buffer.compare(bytes.subarray(offset, offset + PAGE_BYTES), ZERO_PAGE) === 0
}

/**
 * Marks the pages that are not zero: `marks[i]` = 1. `bytes` is a whole number of pages.
 * @returns how many there are.
 */
export function markPages(bytes: Uint8Array, marks: Uint8Array): number {
  const pages = bytes.length / PAGE_BYTES
  let found = 0
  for (let page = 0; page < pages; page++) {
    const used = isZeroPage(bytes, page * PAGE_BYTES) ? 0 : 1
    marks[page] = used
    found += used
  }
  return found
}

/** The stretches a chunk laid out by position keeps: the marked pages, and the short zero runs between them. */
export function stretchesOf(marks: Uint8Array, pages: number): Stretch[] {
  const stretches: { page: number; count: number }[] = []
  for (let page = 0; page < pages; page++) {
    if (marks[page] === 0) continue
    const last = stretches.at(-1)
    if (last !== undefined && page - (last.page + last.count) < ZERO_RUN_PAGES_MIN) last.count = page + 1 - last.page
    else stretches.push({ page, count: 1 })
  }
  return stretches
}

/** Moves the stretches of `bytes` to its front, in order. Returns the number of pages there. Buffer's copy: on shared memory a typed array's own is several times slower. */
export function gather(bytes: Buffer, stretches: readonly Stretch[]): number {
  let pages = 0
  for (const { page, count } of stretches) {
    if (pages !== page) bytes.copy(bytes, pages * PAGE_BYTES, page * PAGE_BYTES, (page + count) * PAGE_BYTES)
    pages += count
  }
  return pages
}

/** The finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014). */
export function mix64(value: bigint): bigint {
  let z = value & U64
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & U64
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & U64
  return z ^ (z >> 31n)
}

/** Whether a pack that holds `count` pages ends behind this page of the image: one page more or less then disturbs one pack, not all that follow. */
export function endsPack(page: number, count: number): boolean {
  return count === CHUNK_PAGES || (mix64(BigInt(page)) & PACK_CUT_MASK) === 0n
}
