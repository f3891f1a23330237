/**
 * Page to verified, opened bytes: finds the chunk of a page, fetches it once however many ask, opens it, keeps what was opened lately.
 *
 * Never zeroes in place of missing bytes: every read gives the bytes of the manifest or an error.
 */
import { LRUCache } from 'lru-cache'
import { PAGE_BYTES } from './chunk.ts'
import { isThawError, ThawError } from './errors.ts'
import { chunkKey as chunkObjectKey } from './layout.ts'
import { chunkId, chunkKey, type Manifest, type ManifestImage, segmentOfChunks } from './manifest.ts'
import { ZERO } from './pagemap.ts'
import { type ChunkRef, OpenedChunk } from './seal.ts'
import type { CallOptions, ObjectStore } from './store.ts'

/** A snapshot as it lies in a store. */
export interface StoredSnapshot {
  /** Hex. */
  readonly id: string
  /** The root that holds it and all its chunks. */
  readonly root: string
  readonly manifest: Manifest
}

/** A chunk of a snapshot, and where its sealed bytes lie. Id and key own their memory, so that they can be posted to a thread. */
export interface StoredChunk extends ChunkRef {
  readonly objectKey: string
  readonly sealedBytes: number
}

/** The pages of a chunk, in memory that is lent. */
export interface LentPages {
  /** pages × 4096 bytes. */
  readonly bytes: Uint8Array
  /** Gives the memory back; called once, when nobody can be reading from it. */
  release(): void
}

/** Turns a stored chunk into its pages; worker threads do it in bulk, the caller's thread for single reads. */
export type Opener = (chunk: StoredChunk, options: CallOptions) => Promise<LentPages>

/** Opened chunks that a reader keeps; 16 MiB if all are full. */
export const OPENED_CHUNKS_MAX = 32

/** Fetches a chunk from the store and opens it on this thread (0.2 to 0.4 ms). */
export function inlineOpener(objects: ObjectStore): Opener {
  return async (chunk, options) => {
    const sealed = Buffer.allocUnsafe(chunk.sealedBytes)
    await fetchSealed(objects, chunk, sealed, options)
    return { bytes: OpenedChunk.open(sealed, chunk).bytes, release: () => undefined }
  }
}

/**
 * Reads the sealed bytes of a chunk to the front of `target`; they are not verified yet.
 * @throws CORRUPT if the object does not have the length the manifest says, NOT_FOUND with the chunk's id.
 */
export async function fetchSealed(
  objects: ObjectStore,
  chunk: Pick<StoredChunk, 'objectKey' | 'sealedBytes'>,
  target: Uint8Array,
  options: CallOptions,
): Promise<void> {
  const object = chunk.objectKey
  let bytes: number
  try {
    bytes = await objects.getInto(object, target.subarray(0, chunk.sealedBytes), options)
  } catch (error) {
    if (isThawError(error, 'BAD_FORMAT')) throw wrongLength(object, 'more', error)
    throw error
  }
  if (bytes !== chunk.sealedBytes) throw wrongLength(object, 'fewer')
}

function wrongLength(object: string, than: string, cause?: unknown): ThawError {
  return new ThawError('CORRUPT', `chunk ${object} has ${than} bytes than its manifest says`, { object, tier: 'origin', cause })
}

/** Where chunks of a snapshot lie, by index. */
export class ChunkLocator {
  readonly #snapshot: StoredSnapshot
  readonly #segmentOf: Uint16Array

  constructor(snapshot: StoredSnapshot) {
    this.#snapshot = snapshot
    this.#segmentOf = segmentOfChunks(snapshot.manifest)
  }

  at(index: number): StoredChunk {
    const { manifest, root } = this.#snapshot
    const id = chunkId(manifest, index)
    const { domain } = manifest.segments[this.#segmentOf[index]!]!
    return {
      id: new Uint8Array(id),
      key: new Uint8Array(chunkKey(manifest, index)),
      pages: manifest.pages[index]!,
      objectKey: chunkObjectKey(root, domain, id.toString('hex')),
      sealedBytes: manifest.sealedBytes[index]!,
    }
  }
}

export class Reader {
  readonly #locator: ChunkLocator
  readonly #open: Opener
  /** A reader that was just given a chunk goes on in the same turn of the event loop: its memory is given back in a later one. */
  readonly #opened = new LRUCache<number, LentPages>({ max: OPENED_CHUNKS_MAX, dispose: pages => void setImmediate(pages.release) })
  readonly #underWay = new Map<number, Promise<Uint8Array>>()

  constructor(snapshot: StoredSnapshot, open: Opener) {
    this.#locator = new ChunkLocator(snapshot)
    this.#open = open
  }

  /** The pages of a chunk; shared, not to be written to, and good until the caller waits for anything else. */
  chunk(index: number, options: CallOptions = {}): Promise<Uint8Array> {
    const opened = this.#opened.get(index)
    if (opened !== undefined) return Promise.resolve(opened.bytes)
    const shared = this.#underWay.get(index) ?? this.#start(index)
    return options.signal === undefined ? shared : raceSignal(shared, options.signal)
  }

  /** Begins to fetch a chunk that `chunk` will be asked for; its error, if any, is for that call to meet. */
  prefetch(index: number): void {
    if (!this.#opened.has(index) && !this.#underWay.has(index)) this.#start(index).catch(() => undefined)
  }

  /** Not bound to the first caller's signal: others may be waiting for the same chunk. */
  #start(index: number): Promise<Uint8Array> {
    const fetched = this.#open(this.#locator.at(index), {})
      .then(pages => {
        this.#opened.set(index, pages)
        return pages.bytes
      })
      .finally(() => this.#underWay.delete(index))
    this.#underWay.set(index, fetched)
    return fetched
  }

  /**
   * Fills `target` with the image's bytes from `offset` on, as far as the image goes.
   * @returns how many bytes that was: less than `target.length` only at the end of the image.
   */
  async readInto(image: ManifestImage, target: Uint8Array, offset: number, options: CallOptions = {}): Promise<number> {
    const end = Math.min(offset + target.length, image.sizeBytes)
    for (let at = offset; at < end; ) {
      const page = Math.floor(at / PAGE_BYTES)
      const { chunk, first, count } = image.map.locate(page)
      const until = Math.min((page + count) * PAGE_BYTES, end)
      if (chunk === ZERO) target.fill(0, at - offset, until - offset)
      else {
        const bytes = await this.chunk(chunk, options)
        const from = first * PAGE_BYTES + (at - page * PAGE_BYTES)
        target.set(bytes.subarray(from, from + until - at), at - offset)
      }
      at = until
    }
    return Math.max(0, end - offset)
  }
}

function raceSignal<T>(shared: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted()
  const { promise, resolve, reject } = Promise.withResolvers<T>()
  const aborted = (): void => reject(signal.reason)
  signal.addEventListener('abort', aborted, { once: true })
  shared.then(resolve, reject).finally(() => signal.removeEventListener('abort', aborted))
  return promise
}
