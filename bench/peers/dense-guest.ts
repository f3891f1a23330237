/**
 * A dense image of real content: what a guest that uses all its memory looks like, and where elision of zeros helps nobody. The pages of a captured guest that are not zero, over and
 * over until the image is full, each marked with its place, so that no page is there twice and nobody gains by finding copies.
 */
import { mkdir, open, rename, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { cacheHome } from '../../scripts/cache-home.ts'
import { isZeroPage, PAGE_BYTES } from '../../src/chunk.ts'

/** Raised when a change here makes other bytes. */
const VERSION = 2
const READ_BYTES = 2 ** 20

/** The path of such an image in the user's cache, made if it is not there; `sizeBytes` is a multiple of the page. */
export async function cachedDenseGuest(guest: string, sizeBytes: number): Promise<string> {
  const path = join(cacheHome(), 'bench', `dense-${VERSION}-${sizeBytes}.img`)
  const size = await stat(path).then(
    ({ size }) => size,
    () => undefined,
  )
  if (size === sizeBytes) return path
  await mkdir(join(path, '..'), { recursive: true })
  const making = `${path}.${process.pid}`
  await writeDenseGuest(guest, making, sizeBytes)
  await rename(making, path)
  return path
}

async function writeDenseGuest(guest: string, path: string, sizeBytes: number): Promise<void> {
  await using file = await open(path, 'w')
  let written = 0
  while (written < sizeBytes) {
    const before = written
    for await (const pages of usedPages(guest)) {
      for (let at = 0; at < pages.length; at += PAGE_BYTES) pages.writeDoubleLE((written + at) / PAGE_BYTES + 1, at)
      await file.writeFile(pages.subarray(0, sizeBytes - written))
      written += pages.length
      if (written >= sizeBytes) break
    }
    if (written === before) throw new Error(`${guest} has no page that is not zero`)
  }
}

async function* usedPages(guest: string): AsyncGenerator<Buffer> {
  await using file = await open(guest, 'r')
  for (let offset = 0; ; offset += READ_BYTES) {
    const { bytesRead, buffer } = await file.read(Buffer.alloc(READ_BYTES), 0, READ_BYTES, offset)
    if (bytesRead === 0) break
    const pages: Buffer[] = []
    for (let at = 0; at + PAGE_BYTES <= bytesRead; at += PAGE_BYTES) {
      if (!isZeroPage(buffer, at)) pages.push(buffer.subarray(at, at + PAGE_BYTES))
    }
    if (pages.length > 0) yield Buffer.concat(pages)
  }
}
