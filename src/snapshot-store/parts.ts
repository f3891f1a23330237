/** What a store works with, and the cache of its own that it has if it is given none. */
import type { EngineStore } from '../engine.ts'
import { type Cache, createCache } from '../open-cache.ts'
import type { ObjectStore } from '../store.ts'

/** L1 memory of a store that was given no cache. */
const OWN_MEMORY_BYTES = 16 * 2 ** 20

export interface StoreParts {
  readonly objects: ObjectStore
  readonly cache: Cache
  readonly engine: EngineStore
  /** Whether nobody else reads through the cache. */
  readonly ownsCache: boolean
}

export async function readThroughCache(objects: ObjectStore, shared: Cache | undefined): Promise<StoreParts> {
  const cache = shared ?? (await createCache({ memoryBytes: OWN_MEMORY_BYTES, thread: 'main' }))
  return { objects, cache, engine: await cache.engine.openStore(objects), ownsCache: shared === undefined }
}
