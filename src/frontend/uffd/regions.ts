/**
 * The guest's memory as its VMM told of it: which addresses hold which pages of the image, and what became of each page.
 *
 * A page is numbered within its region. Pages are 4 KiB here, in regions of huge pages too: there 512 of them always change together.
 */
import { PAGE_BYTES } from '../../chunk.ts'
import { PageBits } from './page-bits.ts'

/** One region of a handshake: addresses [address, address + sizeBytes) hold bytes of the image from `offset` on. */
export interface RegionLayout {
  readonly address: number
  readonly sizeBytes: number
  readonly offset: number
  /** What the kernel maps at once: 4 KiB or 2 MiB. */
  readonly pageBytes: number
}

export class Region {
  readonly address: number
  /** Address behind the region. */
  readonly end: number
  /** The page of the image that page 0 is. */
  readonly firstPage: number
  readonly pageCount: number
  readonly pageBytes: number
  /** Pages that were installed. One that is not may be there nevertheless: the kernel knows. */
  readonly #placed: PageBits
  /** Pages that the guest gave back at some time: zero from then on, until it writes to them. */
  readonly #removed: PageBits

  constructor({ address, sizeBytes, offset, pageBytes }: RegionLayout) {
    this.address = address
    this.end = address + sizeBytes
    this.firstPage = offset / PAGE_BYTES
    this.pageCount = sizeBytes / PAGE_BYTES
    this.pageBytes = pageBytes
    this.#placed = new PageBits(this.pageCount)
    this.#removed = new PageBits(this.pageCount)
  }

  /** The page at an address; in a region of huge pages the first of its huge page. */
  pageAt(address: number): number {
    const into = address - this.address
    return (into - (into % this.pageBytes)) / PAGE_BYTES
  }

  addressOf(page: number): number {
    return this.address + page * PAGE_BYTES
  }

  isRemoved(page: number): boolean {
    return this.#removed.has(page)
  }

  place(page: number, count: number): void {
    this.#placed.add(page, count)
  }

  remove(page: number, count: number): void {
    this.#removed.add(page, count)
    this.#placed.delete(page, count)
  }

  /** The first page of [from, end) that was not given back yet, or that was; or `end`. */
  nextRemoved(isRemoved: boolean, from: number, end: number): number {
    return this.#removed.next(isRemoved, from, end)
  }

  /** How many pages from `page` on, at most `max`, hold the image's bytes and are not installed yet. */
  countFresh(page: number, max: number): number {
    const end = Math.min(page + max, this.pageCount)
    let at = page
    while (at < end && !this.#placed.has(at) && !this.#removed.has(at)) at++
    return at - page
  }
}

/** The regions of one VMM, which do not overlap. */
export class Regions {
  readonly all: readonly Region[]
  /** The one found last: faults come close to each other, and most guests have one region that matters. */
  #last: Region

  constructor(layouts: readonly RegionLayout[]) {
    this.all = layouts.map(layout => new Region(layout)).sort((a, b) => a.address - b.address)
    this.#last = this.all[0]!
  }

  at(address: number): Region | undefined {
    if (address >= this.#last.address && address < this.#last.end) return this.#last
    let low = 0
    let high = this.all.length
    while (high - low > 1) {
      const middle = (low + high) >>> 1
      if (this.all[middle]!.address <= address) low = middle
      else high = middle
    }
    const region = this.all[low]!
    if (address < region.address || address >= region.end) return undefined
    this.#last = region
    return region
  }
}
