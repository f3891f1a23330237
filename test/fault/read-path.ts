/** A snapshot that was really pushed, and ways to read it through engines of a test's own making. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PAGE_BYTES } from '../../src/chunk.ts'
import { LocalEngine } from '../../src/engine/local.ts'
import type { Engine } from '../../src/engine.ts'
import { createFileKeyring, type Keyring } from '../../src/index.ts'
import { Cache } from '../../src/open-cache.ts'
import { initStore } from '../../src/root.ts'
import { openStoreOver, type SnapshotStore } from '../../src/snapshot-store.ts'
import type { ObjectStore } from '../../src/store.ts'
import { memoryStore } from '../../src/testing.ts'
import { patchedStore } from '../patched-store.ts'
import { pieces } from '../small-store.ts'

const RANGE_PAGES = 128

export interface PushedImage extends AsyncDisposable {
  /** In memory. */
  readonly objects: ObjectStore
  readonly keyring: Keyring
  /** The only root. */
  readonly root: string
  /** The snapshot. It has one image, `memory`. */
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
  const dir = await mkdtemp(join(tmpdir(), 'thaw-read-'))
  const keyring = await createFileKeyring(join(dir, 'keys'))
  const objects = memoryStore({ like: 's3' })
  const { roots } = await initStore(objects, keyring)
  await using engine = new LocalEngine({ memoryBytes: 0, caches: [] })
  await using store = await openThrough(objects, keyring, engine)
  const image = sparseImage(ranges)
  const { id } = await store.push({ layer: 'os', images: { memory: { kind: 'memory', stream: pieces(image) } } })
  return { objects, keyring, root: roots[0]!.id, id, image, [Symbol.asyncDispose]: () => rm(dir, { recursive: true }) }
}

/** Opens the store that lies in `objects` through an engine. Closing it closes neither. */
export function openThrough(objects: ObjectStore, keyring: Keyring, engine: Engine): Promise<SnapshotStore> {
  const left = patchedStore(objects, { close: async () => undefined, [Symbol.asyncDispose]: async () => undefined })
  return openStoreOver(left, { keyring, cache: new Cache(engine) })
}
