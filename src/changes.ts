/**
 * What of an image is not as in the image it came from: the contract between those who know it (a restore's overlay, a VMM's diff file) and those who make a snapshot of it.
 *
 * Invariant: the stretches are whole pages, ascending, and do not overlap; what none of them covers is as in the parent. The image's last page may be short: then so is what a
 * file holds of it. A stretch says "perhaps changed": whoever takes it compares.
 *
 * It knows nothing of snapshots and fetches nothing. Sources are in `changes/`; an overlay is one too (overlay.ts).
 */
import { PAGE_BYTES } from './chunk.ts'

/** Pages [page, page + count) of an image. */
export type ChangedPages = { readonly page: number; readonly count: number } & (
  | { readonly kind: 'zero' }
  | {
      readonly kind: 'file'
      /** Open for reading until the changes have been taken; whoever gave it closes it. */
      readonly fd: number
      /** Byte of the file at which `page` begins. */
      readonly offset: number
    }
)

/** What may differ from the parent's image of the same name and size. */
export interface ImageChanges {
  /** Of the image. */
  readonly sizeBytes: number
  /** In order, not overlapping. May be asked for more than once. */
  stretches(): Iterable<ChangedPages>
  /**
   * Called once all images have been read.
   * @throws ThawError CONFLICT if something was written since these changes were made out: the guest has to be stopped first
   */
  checkUnchanged(): void | Promise<void>
}

/** Pages [from, to) of a stretch that holds them all. */
export function cutPages(stretch: ChangedPages, from: number, to: number): ChangedPages {
  const pages = { page: from, count: to - from }
  if (stretch.kind === 'zero') return { kind: 'zero', ...pages }
  return { kind: 'file', ...pages, fd: stretch.fd, offset: stretch.offset + (from - stretch.page) * PAGE_BYTES }
}
