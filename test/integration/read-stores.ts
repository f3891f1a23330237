/** A store with one snapshot, and a cache to read it through: what the tests of reads under real faults begin with. */
import { isThawError } from '../../src/errors.ts'
import { type FileKeyring, openStore, type SnapshotImage, type SnapshotStore } from '../../src/index.ts'
import { type Cache, type CacheOptions, createCache } from '../../src/open-cache.ts'
import { sparseImage } from '../fault/read-path.ts'
import { until } from '../servers/redis.ts'
import { pieces, type SmallStore, smallStore } from '../small-store.ts'

/** Three times what the smallest memory holds, so that most reads go to the tiers behind it. */
const RANGES = 48
const RANGE_BYTES = 512 * 1024

/** Far more than any deadline that a test sets. */
const HANG_MS = 15_000

export interface Pushed {
  readonly id: string
  readonly image: Buffer
}

export async function pushTo(store: SnapshotStore): Promise<Pushed> {
  const image = sparseImage(RANGES)
  const { id } = await store.push({ layer: 'os', images: { memory: { kind: 'memory', stream: pieces(image) } } })
  return { id, image }
}

/** A directory store with the snapshot in it. */
export async function pushedStore(): Promise<SmallStore & Pushed> {
  const small = await smallStore()
  return { ...small, ...(await pushTo(small.store)), [Symbol.asyncDispose]: () => small[Symbol.asyncDispose]() }
}

/** Reads the snapshot again and again, past what L1 memory holds. */
export class Reading implements AsyncDisposable {
  readonly cache: Cache
  readonly #store: SnapshotStore
  readonly #memory: SnapshotImage
  readonly #image: Buffer

  private constructor(cache: Cache, store: SnapshotStore, memory: SnapshotImage, image: Buffer) {
    this.cache = cache
    this.#store = store
    this.#memory = memory
    this.#image = image
  }

  static async open(url: string, keyring: FileKeyring, { id, image }: Pushed, options: CacheOptions): Promise<Reading> {
    const cache = await createCache({ thread: 'main', ...options, memoryBytes: 0 })
    try {
      const store = await openStore(url, { keyring, cache })
      return new Reading(cache, store, (await store.open(id)).image('memory'), image)
    } catch (error) {
      await cache.close()
      throw error
    }
  }

  /** Reads all ranges at a time and waits for the copies that are made of them: `right`, or what those that are not came to, as `CODE tier`. Rejects if it hangs. */
  async all(): Promise<string> {
    const ranges = Array.from({ length: RANGES }, (_, range) => this.#range(range * RANGE_BYTES))
    const outcomes = await inTime(Promise.all(ranges))
    await inTime(this.cache.settled())
    return [...new Set(outcomes)].sort().join(', ')
  }

  /** Reads until all of it is right. */
  async untilRight(): Promise<void> {
    await until(async () => (await this.all()) === 'right')
  }

  /** Reads until all of it comes from this tier, nothing else being asked. */
  async untilServedBy(tier: 'disk' | 'l2'): Promise<void> {
    await until(async () => {
      const before = await this.cache.stats()
      const came = await this.all()
      const after = await this.cache.stats()
      return came === 'right' && after[tier]!.hits > before[tier]!.hits && after.origin.hits === before.origin.hits
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#store.close()
    await this.cache.close()
  }

  async #range(offset: number): Promise<string> {
    try {
      const bytes = await this.#memory.read(offset, RANGE_BYTES)
      return this.#image.subarray(offset, offset + RANGE_BYTES).equals(bytes) ? 'right' : 'WRONG BYTES'
    } catch (error) {
      if (isThawError(error)) return `${error.code} ${error.tier}`
      throw error
    }
  }
}

async function inTime<T>(work: Promise<T>): Promise<T> {
  const late = Promise.withResolvers<never>()
  const timer = setTimeout(() => late.reject(new Error(`nothing came of it within ${HANG_MS} ms`)), HANG_MS)
  try {
    return await Promise.race([work, late.promise])
  } finally {
    clearTimeout(timer)
  }
}
