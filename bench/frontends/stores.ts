/** A directory store with one snapshot, whose image is an image file as the peers serve it. */
import { randomBytes } from 'node:crypto'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { loadLibrary } from '../built.ts'
import type { Bench } from '../harness.ts'

export interface Stored {
  readonly dir: string
  readonly url: string
  readonly ref: string
  /** The image as a file. */
  readonly image: string
  readonly sizeBytes: number
}

const SIZE_BYTES = 256 * 2 ** 20
const SMOKE_BYTES = 8 * 2 ** 20
const PIECE_BYTES = 2 ** 20
const PAGE_BYTES = 4096

/** Pages that compress about as those of guests do: a third of each is random. */
export async function storedImage({ smoke, dir, note }: Bench): Promise<Stored> {
  note('making and pushing the image')
  const sizeBytes = smoke ? SMOKE_BYTES : SIZE_BYTES
  const image = join(dir, 'memory.img')
  await using file = await open(image, 'w')
  const piece = Buffer.alloc(PIECE_BYTES)
  for (let at = 0; at < sizeBytes; at += PIECE_BYTES) {
    for (let page = 0; page < PIECE_BYTES; page += PAGE_BYTES) piece.set(randomBytes(PAGE_BYTES / 3), page)
    await file.write(piece)
  }
  const thaw = await loadLibrary(smoke)
  const url = join(dir, 'store')
  const keyring = await thaw.createFileKeyring(join(dir, 'keys'))
  await thaw.initStore(url, { keyring })
  await using store = await thaw.openStore(url, { keyring })
  const { id } = await store.push({ layer: 'os', images: { memory: { path: image } } })
  return { dir, url, ref: id, image, sizeBytes }
}

/** Twice what the image needs: everything fits. */
export function cacheBytes({ sizeBytes }: Stored): number {
  return 2 * sizeBytes + 64 * 2 ** 20
}
