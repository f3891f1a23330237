/**
 * Checks a snapshot against what its manifest says: every chunk against its id and, with the keys, every range of every image, read through the page map, against
 * its digest. Finds all that is bad, not the first.
 *
 * It asks the store itself, past the caches, but on the same path: what the store holds is what is to be known, and a good copy in a cache would hide a bad original.
 */
import { CHUNK_PAGES, PAGE_BYTES, pageCount, RANGE_BYTES, rangeCount } from './chunk.ts'
import { ChunkPlaces } from './engine/chunk-table.ts'
import type { EngineStore } from './engine.ts'
import { type ErrorCode, isThawError, ThawError } from './errors.ts'
import type { FoundOutline, StoredSnapshot } from './find.ts'
import { chunkCount, DIGEST_BYTES, type ManifestImage, type Outline, RANGE_STATE } from './manifest.ts'
import { ZERO } from './pagemap.ts'
import { ChunkReader, OPENED_CHUNKS_MAX } from './reader/chunk-reader.ts'
import { SealPool } from './seal/pool.ts'
import type { CallOptions } from './store.ts'
import { forEachAtOnce } from './util/at-once.ts'
import { Urgency } from './util/urgency.ts'

export interface VerifyProgress {
  readonly totalChunks: number
  readonly chunks: number
  /** Sealed bytes. */
  readonly totalBytes: number
  readonly bytes: number
}

export interface VerifyOptions {
  readonly signal?: AbortSignal | undefined
  /** Called at most ten times a second, and at the end. */
  readonly onProgress?: ((progress: VerifyProgress) => void) | undefined
}

export interface BadObject {
  /** Object key of a chunk, or an image and its range. */
  readonly object: string
  readonly code: ErrorCode
  readonly message: string
}

export interface VerifyReport {
  readonly id: string
  readonly chunks: number
  /** Sealed bytes checked. */
  readonly bytes: number
  /** True: the keyring opened the snapshot, so pages were compared as well. */
  readonly opened: boolean
  readonly bad: readonly BadObject[]
}

/** What a verification says of one object; anything else ends it. */
const VERDICTS: readonly ErrorCode[] = ['CORRUPT', 'BAD_FORMAT', 'NOT_FOUND', 'WRONG_KEY']
const PROGRESS_INTERVAL_MS = 100
/** Ranges assembled at once; each holds a slot while its chunks pass through others. */
const RANGES_AT_ONCE = 8

/** @param snapshot undefined if the keyring cannot open it. @throws UNAVAILABLE, TIMEOUT, DENIED */
export async function verifySnapshot(
  store: EngineStore,
  found: FoundOutline,
  snapshot: StoredSnapshot | undefined,
  options: VerifyOptions,
): Promise<VerifyReport> {
  await using pool = new SealPool({ slots: RANGES_AT_ONCE + store.concurrency + OPENED_CHUNKS_MAX, sealedSlab: store.slab })
  const verification = new Verification(store, found, pool, options)
  if (snapshot !== undefined) await verification.images(snapshot)
  await verification.remainingChunks()
  return verification.report(snapshot !== undefined)
}

class Verification {
  readonly #store: EngineStore
  readonly #found: FoundOutline
  readonly #pool: SealPool
  readonly #options: VerifyOptions
  readonly #bad = new Map<string, BadObject>()
  /** 1: the chunk was fetched and compared with its id, whatever came of it. */
  readonly #checked: Uint8Array
  #chunks = 0
  #bytes = 0
  #reportedAt = 0

  constructor(store: EngineStore, found: FoundOutline, pool: SealPool, options: VerifyOptions) {
    this.#store = store
    this.#found = found
    this.#pool = pool
    this.#options = options
    this.#checked = new Uint8Array(chunkCount(found.outline))
  }

  async images(snapshot: StoredSnapshot): Promise<void> {
    const reader = new ChunkReader(this.#store, this.#pool, snapshot, {
      originOnly: true,
      onFetched: (index, { sealed }, error) => {
        if (error !== undefined) this.#judge(sealed.objectKey, error)
        this.#count(index, sealed.sizeBytes)
      },
    })
    const lineageKey = new Uint8Array(snapshot.manifest.lineageKey)
    for (const image of snapshot.manifest.images) {
      const ranges = Array.from({ length: rangeCount(image.sizeBytes) }, (_, range) => range)
      await forEachAtOnce(ranges, RANGES_AT_ONCE, range => this.#range(image, range, reader, lineageKey))
    }
  }

  async #range(image: ManifestImage, range: number, reader: ChunkReader, lineageKey: Uint8Array): Promise<void> {
    const { signal } = this.#options
    signal?.throwIfAborted()
    const offset = range * RANGE_BYTES
    const sizeBytes = Math.min(RANGE_BYTES, image.sizeBytes - offset)
    const slot = await this.#pool.acquire()
    try {
      await readRange(reader, image, slot.bytes.subarray(0, sizeBytes), range, { signal })
      const digest = image.digests.digests.slice(range * DIGEST_BYTES, (range + 1) * DIGEST_BYTES)
      const { state } = await this.#pool.run(slot, { kind: 'scan', file: undefined, sizeBytes, lineageKey, layout: 'compare', digest })
      const wanted = image.digests.states[range]
      const fits =
        state === 'zero'
          ? wanted !== RANGE_STATE.known
          : wanted === RANGE_STATE.unknown || (wanted === RANGE_STATE.known && state === 'same')
      if (fits) return
      const object = `${image.name} at ${offset}`
      this.#judge(object, new ThawError('CORRUPT', `image ${object}: its bytes do not match the digest of the range`, { object }))
    } catch (error) {
      // A bad chunk was judged when it was opened.
      if (!isThawError(error, ...VERDICTS)) throw error
    } finally {
      slot.release()
    }
  }

  /** Chunks that no image made us fetch: all of them, without keys. */
  async remainingChunks(): Promise<void> {
    const { outline, root } = this.#found
    const places = new ChunkPlaces(outline, root)
    const left = [...this.#checked.keys()].filter(index => this.#checked[index] === 0)
    await forEachAtOnce(left, this.#store.concurrency, async index => {
      const { signal } = this.#options
      signal?.throwIfAborted()
      const sealed = places.at(index)
      const id = new Uint8Array(Buffer.from(sealed.id, 'hex'))
      try {
        await this.#store.withSealed(
          sealed,
          ({ slot, bytes }) => this.#pool.run(undefined, { kind: 'verify', sealed: { index: slot, sizeBytes: bytes.length }, id }),
          { signal, urgency: new Urgency('bulk'), originOnly: true },
        )
      } catch (error) {
        this.#judge(sealed.objectKey, error)
      }
      this.#count(index, sealed.sizeBytes)
    })
  }

  /** Notes what is bad; rethrows what says nothing about the object. */
  #judge(object: string, error: unknown): void {
    if (!isThawError(error, ...VERDICTS)) throw error
    if (!this.#bad.has(object)) this.#bad.set(object, { object, code: error.code, message: error.message })
  }

  #count(index: number, sealedBytes: number): void {
    if (this.#checked[index] === 1) return
    this.#checked[index] = 1
    this.#chunks++
    this.#bytes += sealedBytes
    const now = performance.now()
    if (now - this.#reportedAt < PROGRESS_INTERVAL_MS) return
    this.#reportedAt = now
    this.#options.onProgress?.(this.#progress())
  }

  #progress(): VerifyProgress {
    const { outline } = this.#found
    return { totalChunks: chunkCount(outline), chunks: this.#chunks, totalBytes: sum(outline), bytes: this.#bytes }
  }

  report(opened: boolean): VerifyReport {
    this.#options.onProgress?.(this.#progress())
    return { id: this.#found.id, chunks: this.#chunks, bytes: this.#bytes, opened, bad: [...this.#bad.values()] }
  }
}

/** Fills `target` with a range of an image, through its page map. */
async function readRange(
  reader: ChunkReader,
  { map }: ManifestImage,
  target: Uint8Array,
  range: number,
  options: CallOptions,
): Promise<void> {
  const from = range * CHUNK_PAGES
  for (const { page, count, chunk, first } of map.runs(from, from + pageCount(target.length))) {
    const at = (page - from) * PAGE_BYTES
    const end = Math.min(at + count * PAGE_BYTES, target.length)
    if (chunk === ZERO) target.fill(0, at, end)
    else {
      const pages = await reader.chunk(chunk, options)
      target.set(pages.subarray(first * PAGE_BYTES, first * PAGE_BYTES + end - at), at)
    }
  }
}

function sum({ sealedBytes }: Outline): number {
  return sealedBytes.reduce((total, bytes) => total + bytes, 0)
}
