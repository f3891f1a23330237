/** What a restore wrote to an image, read from the shared memory of its overlay by another thread than the one that writes: while the guest is stopped. */
import type { ChangedPages, ImageChanges } from '../changes.ts'
import { PAGE_BYTES } from '../chunk.ts'
import { ThawError } from '../errors.ts'
import { COUNT, type SharedOverlay } from './image-overlay.ts'
import { isZero, PAGE_STATE, PageStates } from './page-states.ts'

/** What differs now. */
export function overlayChanges(shared: SharedOverlay): ImageChanges {
  const counts = new Int32Array(shared.counts)
  const isQuiet = Atomics.load(counts, COUNT.underWay) === 0
  const begunAt = Atomics.load(counts, COUNT.changes)
  return {
    sizeBytes: shared.sizeBytes,
    stretches: () => stretches(shared),
    checkUnchanged() {
      if (isQuiet && Atomics.load(counts, COUNT.underWay) === 0 && Atomics.load(counts, COUNT.changes) === begunAt) return
      const message = `image ${shared.name} was written to while it was read: stop the guest first; nothing was published`
      throw new ThawError('CONFLICT', message, { object: shared.name })
    },
  }
}

function* stretches({ states: memory, fd }: SharedOverlay): Generator<ChangedPages> {
  const states = new PageStates(memory)
  const end = memory.byteLength
  for (let page = 0; page < end; ) {
    const state = states.bytes[page]
    const pages = { page, count: states.run(page, end) }
    if (isZero(state!)) yield { kind: 'zero', ...pages }
    else if (state === PAGE_STATE.written) yield { kind: 'file', ...pages, fd, offset: page * PAGE_BYTES }
    page += pages.count
  }
}
