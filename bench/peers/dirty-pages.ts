/** What a function layer could cost at best: the pages that differ from the runtime's, compressed as one piece. */
import { type FileHandle, open } from 'node:fs/promises'
import { constants, zstdCompressSync } from 'node:zlib'
import { isZeroPage, PAGE_BYTES, RANGE_BYTES } from '../../src/chunk.ts'

export interface DirtyPages {
  /** Pages of `after` that differ from `before` and are not zero. */
  readonly bytes: number
  /** The same as one zstd frame of level 1. */
  readonly compressedBytes: number
}

/** Compares two images of one size, page by page. */
export async function dirtyPages(before: string, after: string): Promise<DirtyPages> {
  await using old = await open(before)
  await using now = await open(after)
  const { size } = await now.stat()
  const [a, b] = [Buffer.alloc(RANGE_BYTES), Buffer.alloc(RANGE_BYTES)]
  const dirty: Buffer[] = []
  for (let at = 0; at < size; at += RANGE_BYTES) {
    await readRange(old, a, at)
    await readRange(now, b, at)
    if (a.equals(b)) continue
    for (let page = 0; page < RANGE_BYTES; page += PAGE_BYTES) {
      const bytes = b.subarray(page, page + PAGE_BYTES)
      if (!isZeroPage(b, page) && !bytes.equals(a.subarray(page, page + PAGE_BYTES))) dirty.push(Buffer.from(bytes))
    }
  }
  const all = Buffer.concat(dirty)
  const frame = zstdCompressSync(all, { params: { [constants.ZSTD_c_compressionLevel]: 1 } })
  return { bytes: all.length, compressedBytes: frame.length }
}

/** Fills `into`; behind the end of the file with zeros. */
async function readRange(file: FileHandle, into: Buffer, at: number): Promise<void> {
  const { bytesRead } = await file.read(into, 0, into.length, at)
  into.fill(0, bytesRead)
}
