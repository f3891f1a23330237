/** A snapshot that was really pushed, and ways to read it through engines of a test's own making. */
import { PAGE_BYTES } from '../../src/chunk.ts'
import type { Engine } from '../../src/engine.ts'
import type { Keyring } from '../../src/index.ts'
import { Cache } from '../../src/open-cache.ts'
import { openStoreOver, type SnapshotStore } from '../../src/snapshot-store.ts'
import type { ObjectStore } from '../../src/store.ts'
import { patchedStore } from '../patched-store.ts'
import { type InMemory, inMemory } from './memory-store.ts'

const RANGE_PAGES = 128

export interface PushedImage extends InMemory {
  /** Its snapshot has one image, `memory`. */
  readonly id: string
  readonly image: Buffer
}

/** That many ranges, each with a few pages that differ from all others and zeros between: a chunk a range. */
export function sparseImage(ranges: number, seed = 1): Buffer {
  const image = Buffer.alloc(ranges * RANGE_PAGES * PAGE_BYTES)
  for (let range = 0; range < ranges; range++) {
    for (let page = range % 5; page < RANGE_PAGES; page += 17 + (range % 7)) {
      const at = (range * RANGE_PAGES + page) * PAGE_BYTES
      for (let word = 0; word < PAGE_BYTES; word += 4) image.writeUInt32LE(Math.imul(at + word, 2_654_435_761 ^ seed) >>> 0, at + word)
    }
  }
  return image
}

export async function pushedImage(ranges: number): Promise<PushedImage> {
  const memory = await inMemory()
  const image = sparseImage(ranges)
  const { id } = await memory.store.push({ layer: 'os', images: { memory: { kind: 'memory', bytes: image } } })
  return { ...memory, id, image }
}

/** Opens the store that lies in `objects` through an engine. Closing it closes neither. */
export function openThrough(objects: ObjectStore, keyring: Keyring, engine: Engine): Promise<SnapshotStore> {
  const left = patchedStore(objects, { close: async () => undefined, [Symbol.asyncDispose]: async () => undefined })
  return openStoreOver(left, { keyring, cache: new Cache(engine) })
}
