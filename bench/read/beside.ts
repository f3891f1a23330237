/**
 * What a demand takes beside other work, against the same demand alone: that of a thread that reads as a pager does, on the engine's worker.
 *
 * - bulk: from the disk cache, while 64 prefetches are always under way and the whole snapshot is pulled again and again.
 * - reader: from a directory store, while a reader of another tenant always has 1,000 wants under way.
 */
import { join } from 'node:path'
import type { EngineStore, HeldSnapshot } from '../../src/engine.ts'
import { openSnapshot, type StoredSnapshot } from '../../src/find.ts'
import { type Cache, createCache, openStore } from '../../src/index.ts'
import { pullImages } from '../../src/pull.ts'
import type { SharedImage } from '../../src/reader.ts'
import { openObjectStore } from '../../src/store/open.ts'
import { forEachAtOnce } from '../../src/util/at-once.ts'
import { type Priority, Urgency } from '../../src/util/urgency.ts'
import type { Bench, Section } from '../harness.ts'
import { type Course, joined, makeCourse, quantile, showQuantiles } from './course.ts'
import { startReader } from './reader.ts'

/** Of the image, in this order: chunks that the other work wants, and those that are demanded, each once a pass. Neither are found in memory. */
const WANTED = 1100
const DEMANDED = 100
const SMOKE = { wanted: 100, demanded: 40 }
/** Far less than either. */
const MEMORY_BYTES = 32 * 512 * 1024

const PREFETCHES = 64
const READER_WANTS = 1000

export async function besideBulk(bench: Bench): Promise<readonly Section[]> {
  const { course, wanted } = await prepared(bench)
  const path = join(bench.dir, 'cache-beside')
  await using cache = await createCache({ memoryBytes: MEMORY_BYTES, disk: { path, sizeBytes: 2 ** 32 } })
  {
    await using store = await openStore(course.url, { keyring: course.keyring, cache })
    await store.warm(course.tag)
  }
  const fetched = (await cache.stats()).origin.hits
  await using read = await Read.open(cache, course)
  const { alone, beside } = await inTurns(bench, read, wanted, async signal => {
    const pulling = async (): Promise<void> => {
      while (!signal.aborted) await pullImages(read.store, read.stored, join(bench.dir, 'pulled'), {})
    }
    await Promise.all([read.wantAgainAndAgain(wanted, PREFETCHES, 'prefetch', signal), pulling()])
  })
  if ((await cache.stats()).origin.hits !== fetched) throw new Error('not all chunks were found on disk')
  return [
    {
      name: 'beside-bulk',
      title: `hits on disk while ${PREFETCHES} prefetches and a pull are under way, in milliseconds`,
      timings: [],
      goals: [{ what: 'p99 / p99 alone', value: quantile(beside, 0.99) / quantile(alone, 0.99), bound: 'at most', target: 2 }],
      notes: [`alone: ${showQuantiles(alone)}`, `beside: ${showQuantiles(beside)}`],
    },
  ]
}

export async function besideReader(bench: Bench): Promise<readonly Section[]> {
  const { course, wanted } = await prepared(bench)
  await using cache = await createCache({ memoryBytes: MEMORY_BYTES })
  await using read = await Read.open(cache, course)
  const atOnce = bench.smoke ? PREFETCHES : READER_WANTS
  const { alone, beside } = await inTurns(bench, read, wanted, signal => read.wantAgainAndAgain(wanted, atOnce, 'demand', signal))
  return [
    {
      name: 'beside-reader',
      title: `demands from a directory store beside a reader that has ${atOnce} wants under way, in milliseconds`,
      timings: [],
      goals: [{ what: 'median / median alone', value: quantile(beside, 0.5) / quantile(alone, 0.5), bound: 'at most', target: 3 }],
      notes: [`alone: ${showQuantiles(alone)}`, `beside: ${showQuantiles(beside)}`],
    },
  ]
}

async function prepared(bench: Bench): Promise<{ readonly course: Course; readonly wanted: number }> {
  const { wanted, demanded } = bench.smoke ? SMOKE : { wanted: WANTED, demanded: DEMANDED }
  return { course: await makeCourse(bench, 'dense', wanted + demanded), wanted }
}

/** Milliseconds of each demand, with `work` under way and without. */
async function inTurns(
  { runs }: Bench,
  read: Read,
  wanted: number,
  work: (signal: AbortSignal) => Promise<void>,
): Promise<{ readonly alone: Float64Array; readonly beside: Float64Array }> {
  const alone: Float64Array[] = []
  const beside: Float64Array[] = []
  for (let run = 0; run < runs; run++) {
    alone.push(await read.demands(wanted))
    const over = new AbortController()
    const working = work(over.signal)
    beside.push(await read.demands(wanted))
    over.abort()
    await working
  }
  return { alone: joined(alone), beside: joined(beside) }
}

/** The snapshot, by two handles of different tenants. */
class Read implements AsyncDisposable {
  readonly store: EngineStore
  readonly stored: StoredSnapshot
  readonly #cache: Cache
  readonly #worker: HeldSnapshot
  readonly #guest: HeldSnapshot
  readonly #image: SharedImage

  private constructor(cache: Cache, store: EngineStore, stored: StoredSnapshot, worker: HeldSnapshot, guest: HeldSnapshot) {
    this.store = store
    this.stored = stored
    this.#cache = cache
    this.#worker = worker
    this.#guest = guest
    const { sizeBytes, map } = stored.manifest.images[0]!
    const { starts, chunks, firsts } = map
    this.#image = { sizeBytes, starts, chunks, firsts, numbers: guest.numbers, handle: guest.handle }
  }

  static async open(cache: Cache, { url, keyring, id, root }: Course): Promise<Read> {
    await using objects = await openObjectStore(url)
    const store = await cache.engine.openStore(objects)
    const stored = await openSnapshot({ objects, engine: store }, keyring, id, [root], {})
    const worker = await store.hold(stored.manifest, root, { tenant: 'worker', restore: '' })
    return new Read(cache, store, stored, worker, await worker.lend({ tenant: 'guest', restore: '' }))
  }

  /** A page of each chunk from `from` on, one after the other. */
  demands(from: number): Promise<Float64Array> {
    return startReader(this.#cache, this.#image, { kind: 'misses', from })
  }

  /** Has so many wants under way until the signal aborts. */
  async wantAgainAndAgain(chunks: number, atOnce: number, priority: Priority, signal: AbortSignal): Promise<void> {
    const wants = (function* () {
      for (let want = 0; !signal.aborted; want++) yield want % chunks
    })()
    await forEachAtOnce(wants, atOnce, async chunk => {
      const { slot } = await this.#worker.want(chunk, { urgency: new Urgency(priority) })
      this.#cache.engine.arena.unpin(slot)
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#guest.release()
    this.#worker.release()
    await this.store.close()
  }
}
