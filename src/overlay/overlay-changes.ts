/** What a restore wrote to an image, read from the shared memory of its overlay by another thread than the one that writes: while the guest is stopped. */
import type { ChangedPages, ImageChanges } from '../changes.ts'
import { PAGE_BYTES } from '../chunk.ts'
import { ThawError } from '../errors.ts'
import { COUNT, PAGE_STATE, type SharedOverlay } from './image-overlay.ts'

/** Pages that are looked at as one: their states as one u32 are 0 if all are the parent's. */
const WORD_PAGES = 4

export function overlayChanges(shared: SharedOverlay): ImageChanges {
  const counts = new Int32Array(shared.counts)
  let begunAt = Atomics.load(counts, COUNT.changes)
  return {
    sizeBytes: shared.sizeBytes,
    stretches() {
      begunAt = Atomics.load(counts, COUNT.changes)
      return stretches(shared)
    },
    checkUnchanged() {
      // Odd: a write was under way when the look began.
      if (Atomics.load(counts, COUNT.changes) === begunAt && begunAt % 2 === 0) return
      throw new ThawError(
        'CONFLICT',
        `image ${shared.name} was written to while it was read: stop the guest first; nothing was published`,
        {
          object: shared.name,
        },
      )
    },
  }
}

function* stretches({ states: memory, fd }: SharedOverlay): Generator<ChangedPages> {
  const states = new Uint8Array(memory)
  const words = new Uint32Array(memory, 0, Math.floor(states.length / WORD_PAGES))
  for (let page = 0; page < states.length; ) {
    const state = states[page]
    if (state === PAGE_STATE.parent) {
      page = nextTouched(states, words, page + 1)
      continue
    }
    let end = page + 1
    while (end < states.length && states[end] === state) end++
    const pages = { page, count: end - page }
    yield state === PAGE_STATE.zero ? { kind: 'zero', ...pages } : { kind: 'file', ...pages, fd, offset: page * PAGE_BYTES }
    page = end
  }
}

/** The first page from `page` on that is not the parent's, or the number of pages. */
function nextTouched(states: Uint8Array, words: Uint32Array, page: number): number {
  let at = page
  while (at < states.length && states[at] === PAGE_STATE.parent) {
    if (at % WORD_PAGES === 0 && at / WORD_PAGES < words.length && words[at / WORD_PAGES] === 0) at += WORD_PAGES
    else at++
  }
  return at
}
