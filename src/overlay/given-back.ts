/**
 * The pages of one image that the guest gave back, told apart by the commit before which it did: a diff that begins at the last commit must not be laid over what was given back, and
 * written again, before that.
 *
 * The pager marks such pages as zero in the overlay's states. Each commit notes the marks before it looks at anything: it makes them another kind of zero, which the pager takes for
 * the same and overwrites when a page is given back once more. So nothing is missed, and neither thread waits. One thread has this.
 */
import type { ChangedPages } from '../changes.ts'
import type { SharedOverlay } from './image-overlay.ts'
import { PAGE_STATE, PageStates } from './page-states.ts'

const NEVER = 0
const BEFORE = 1
const SINCE = 2

export class GivenBack {
  readonly #marks: PageStates
  /** When each page was given back: never, before the last commit, or since. */
  readonly #pages: PageStates

  constructor({ states }: SharedOverlay) {
    this.#marks = new PageStates(states)
    this.#pages = new PageStates(new ArrayBuffer(states.byteLength))
  }

  /** Takes in what was marked. */
  note(): void {
    const marks = this.#marks.bytes
    for (let page = 0; page < marks.length; ) {
      const end = page + this.#marks.run(page, marks.length)
      if (marks[page] === PAGE_STATE.zero) for (let at = page; at < end; at++) this.#note(at)
      page = end
    }
  }

  #note(page: number): void {
    Atomics.compareExchange(this.#marks.bytes, page, PAGE_STATE.zero, PAGE_STATE.zeroNoted)
    this.#pages.bytes[page] = SINCE
  }

  /** What was noted is in a commit. */
  committed(): void {
    const pages = this.#pages.bytes
    for (let page = 0; page < pages.length; ) {
      const end = page + this.#pages.run(page, pages.length)
      if (pages[page] === SINCE) pages.fill(BEFORE, page, end)
      page = end
    }
  }

  /** Of what was noted, all, or what was given back since the last commit. */
  *stretches({ sinceCommit }: { readonly sinceCommit: boolean }): Generator<ChangedPages> {
    const pages = this.#pages.bytes
    for (let page = 0; page < pages.length; ) {
      const count = this.#pages.run(page, pages.length)
      const when = pages[page]
      if (when === SINCE || (when !== NEVER && !sinceCommit)) yield { kind: 'zero', page, count }
      page += count
    }
  }
}
