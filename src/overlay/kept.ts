/**
 * The states of an overlay that is kept, in one file beside its pages:
 *
 *     "THAWOVL1"                  8 bytes; the last one is the version
 *     length of the JSON          u32 LE
 *     JSON                        {"images":[{"name":"rootfs","sizeBytes":1073741824,"pages":true},…]}: `pages` says whether <name>.pages is there
 *     states                      of the images in that order, a byte a page: 0 the parent's, 1 in the file, 2 or 4 zero, 3 lost
 *
 * It is put in place whole, when the pages are durable: a folder that has it is complete. It holds no bytes of the guest.
 */
import { join } from 'node:path'
import { replaceFileAtomic } from '../util/atomic-file.ts'
import type { SharedOverlay } from './image-overlay.ts'

export const KEPT_FILE = 'overlay.states'
const MAGIC = 'THAWOVL1'

/** Durable when it settles; the files of pages have to be before. @throws ThawError NO_SPACE, DENIED, UNAVAILABLE */
export async function writeKept(folder: string, images: readonly SharedOverlay[]): Promise<void> {
  const json = Buffer.from(JSON.stringify({ images: images.map(({ name, sizeBytes, fd }) => ({ name, sizeBytes, pages: fd >= 0 })) }))
  const jsonBytes = Buffer.alloc(Uint32Array.BYTES_PER_ELEMENT)
  jsonBytes.writeUInt32LE(json.length)
  const states = images.map(({ states }) => Buffer.from(states))
  await replaceFileAtomic(join(folder, KEPT_FILE), Buffer.concat([Buffer.from(MAGIC), jsonBytes, json, ...states]), { mode: 0o600 })
}
