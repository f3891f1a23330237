/**
 * Pages of a file of which the kernel may have forgotten what was stored to them through mappings.
 *
 * When a write(2) fails, or is short, it takes the pages for not read yet (fuse_send_write_pages of <fs/fuse/file.c>),
 * and does not look whether they are dirty: the next read fetches our bytes over what was stored. Later it
 * writes them back as if they were the guest's. So what is written back of such a page is not to be believed.
 */
import { PAGE_BYTES, pageCount } from '../../chunk.ts'

export class ForgottenPages {
  readonly #sizeBytes: number
  /** A byte a page; made for the first of them. */
  #pages: Uint8Array | undefined

  /** @param sizeBytes of the file */
  constructor(sizeBytes: number) {
    this.#sizeBytes = sizeBytes
  }

  /** All pages of which something lies in [offset, offset + sizeBytes), which may reach beyond the file. */
  add(offset: number, sizeBytes: number): void {
    this.#pages ??= new Uint8Array(pageCount(this.#sizeBytes))
    this.#pages.fill(1, Math.floor(offset / PAGE_BYTES), pageCount(offset + sizeBytes))
  }

  /** Bytes [offset, offset + sizeBytes) of the file are known again: of pages that lie in there, all. */
  delete(offset: number, sizeBytes: number): void {
    if (this.#pages === undefined) return
    const end = offset + sizeBytes
    this.#pages.fill(0, pageCount(offset), end === this.#sizeBytes ? pageCount(end) : Math.floor(end / PAGE_BYTES))
  }

  /** Whether one of the pages of which something lies there is. */
  hasAnyOf(offset: number, sizeBytes: number): boolean {
    return this.#pages?.subarray(Math.floor(offset / PAGE_BYTES), pageCount(offset + sizeBytes)).includes(1) ?? false
  }
}
