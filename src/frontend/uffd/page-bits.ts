/** A bit a page. */

export class PageBits {
  readonly #bytes: Uint8Array

  constructor(pageCount: number) {
    this.#bytes = new Uint8Array(Math.ceil(pageCount / 8))
  }

  has(page: number): boolean {
    return ((this.#bytes[page >>> 3]! >>> (page & 7)) & 1) === 1
  }

  add(page: number, count: number): void {
    const first = Math.min(count, -page & 7)
    const bytes = (count - first) >>> 3
    for (let i = page; i < page + first; i++) this.#set(i)
    if (bytes > 0) this.#bytes.fill(0xff, (page + first) >>> 3, ((page + first) >>> 3) + bytes)
    for (let i = page + first + bytes * 8; i < page + count; i++) this.#set(i)
  }

  delete(page: number, count: number): void {
    const first = Math.min(count, -page & 7)
    const bytes = (count - first) >>> 3
    for (let i = page; i < page + first; i++) this.#clear(i)
    if (bytes > 0) this.#bytes.fill(0, (page + first) >>> 3, ((page + first) >>> 3) + bytes)
    for (let i = page + first + bytes * 8; i < page + count; i++) this.#clear(i)
  }

  /** The first page of [from, end) whose bit is set, or not; or `end`. */
  next(isSet: boolean, from: number, end: number): number {
    const uniform = isSet ? 0 : 0xff
    let page = from
    while (page < end && this.has(page) !== isSet) {
      // Eight at a time where none is it.
      if ((page & 7) === 0 && this.#bytes[page >>> 3] === uniform) page += 8
      else page++
    }
    return Math.min(page, end)
  }

  #set(page: number): void {
    this.#bytes[page >>> 3]! |= 1 << (page & 7)
  }

  #clear(page: number): void {
    this.#bytes[page >>> 3]! &= ~(1 << (page & 7))
  }
}
