/** What the pages of an image are in the overlay of a restore: a byte a page, in shared memory. */

/**
 * The parent's; in the overlay's file; zero; lost: it was written, the overlay could not take it, and nobody has its bytes any more; or zero, as a commit has noted (given-back.ts), which
 * is the same to all others.
 */
export const PAGE_STATE = { parent: 0, written: 1, zero: 2, lost: 3, zeroNoted: 4 } as const

/** Pages whose states are compared at once, as one u32. */
const WORD_PAGES = 4
const SAME = 0x01010101

export function isZero(state: number): boolean {
  return state === PAGE_STATE.zero || state === PAGE_STATE.zeroNoted
}

export class PageStates {
  readonly bytes: Uint8Array
  readonly #words: Uint32Array

  /** @param memory a byte a page */
  constructor(memory: SharedArrayBuffer | ArrayBuffer) {
    this.bytes = new Uint8Array(memory)
    this.#words = new Uint32Array(memory, 0, Math.floor(memory.byteLength / WORD_PAGES))
  }

  /** How many pages from `page` on have its state: those before `end`, which is behind `page`. About 0.3 ms a million. */
  run(page: number, end: number): number {
    const states = this.bytes
    const state = states[page]!
    let next = page + 1
    while (next < end && next % WORD_PAGES !== 0 && states[next] === state) next++
    if (next % WORD_PAGES === 0) {
      const wordsEnd = Math.floor(end / WORD_PAGES)
      const same = state * SAME
      let word = next / WORD_PAGES
      while (word < wordsEnd && this.#words[word] === same) word++
      next = Math.max(next, word * WORD_PAGES)
    }
    while (next < end && states[next] === state) next++
    return next - page
  }

  /** Pages before `end` that have this state, from `page` on. */
  countOf(state: number, page: number, end: number): number {
    let found = 0
    for (let at = page; at < end; ) {
      const pages = this.run(at, end)
      if (this.bytes[at] === state) found += pages
      at += pages
    }
    return found
  }
}
