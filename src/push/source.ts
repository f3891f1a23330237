/**
 * Where the bytes of an image come from: a regular file, read by the worker threads where it lies and without its holes, or anything else that gives bytes in
 * order (a pipe, a device, an async iterable), gathered into slots here. Or what changed against the parent's image: then the rest of its bytes is not asked for at all.
 */

import { createReadStream, type Stats } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { DiffFile } from '../changes/diff-file.ts'
import type { ImageChanges } from '../changes.ts'
import { RANGE_BYTES } from '../chunk.ts'
import { fromErrno, ThawError } from '../errors.ts'
import { LIMITS, type ManifestImage } from '../manifest.ts'
import { copyWhole } from '../util/copy.ts'
import type { Slot } from '../util/slab.ts'
import { dataBlocks } from '../util/sparse.ts'

/** One range of an image, in order. */
export interface SourceRange {
  readonly sizeBytes: number
  /** Where a worker reads it; undefined: it is in the slot already, or a hole. */
  readonly file: { readonly fd: number; readonly offset: number } | undefined
  readonly hole: boolean
}

export interface WholeSource extends AsyncDisposable {
  readonly kind: 'whole'
  /** Undefined until a stream has ended. */
  readonly sizeBytes: number | undefined
  /** The next range; bytes of a stream are put into the slot. Undefined at the end. */
  next(slot: Slot): Promise<SourceRange | undefined>
  /** @throws CONFLICT if the file is not what it was when it was opened. */
  checkUnchanged(): Promise<void>
}

/** Of an image that the parent has too, in the same size. */
export interface ChangesSource extends AsyncDisposable {
  readonly kind: 'changes'
  readonly sizeBytes: number
  readonly changes: ImageChanges
  /** @throws CONFLICT if something was written meanwhile. */
  checkUnchanged(): Promise<void>
}

export type Source = WholeSource | ChangesSource

/** The forms of push.ts's ImageSource, without the kind. */
export type SourceForm =
  | { readonly path: string }
  | { readonly stream: AsyncIterable<Uint8Array> }
  | { readonly diff: string }
  | { readonly changes: ImageChanges }

/**
 * @param parent the parent's image of that name.
 * @throws NOT_FOUND, DENIED; UNSUPPORTED for a diff whose holes cannot be told; RangeError if it is a folder or too large, or of changes if the parent has no such image
 */
export async function openSource(name: string, from: SourceForm, parent: ManifestImage | undefined): Promise<Source> {
  if ('diff' in from || 'changes' in from) return await openChanges(name, from, parent)
  if ('stream' in from) return new StreamSource(name, from.stream)
  return await openFile(name, from.path)
}

async function openChanges(
  name: string,
  from: { readonly diff: string } | { readonly changes: ImageChanges },
  parent: ManifestImage | undefined,
): Promise<ChangesSource> {
  if (parent === undefined) {
    throw new RangeError(`image ${name}: changes need a parent that has this image: name the parent, or push the whole image`)
  }
  const diff = 'diff' in from ? await DiffFile.open(from.diff) : undefined
  const changes = 'changes' in from ? from.changes : diff!
  const { sizeBytes } = changes
  if (sizeBytes !== parent.sizeBytes) {
    await diff?.close()
    throw new RangeError(
      `image ${name}: the changes are of ${sizeBytes} bytes, the parent's image has ${parent.sizeBytes}: push the whole image`,
    )
  }
  return {
    kind: 'changes',
    sizeBytes,
    changes,
    checkUnchanged: async () => await changes.checkUnchanged(),
    [Symbol.asyncDispose]: async () => await diff?.close(),
  }
}

async function openFile(name: string, path: string): Promise<WholeSource> {
  const handle = await open(path, 'r').catch(error => {
    throw fromErrno(error, `cannot read image ${name}`, path)
  })
  try {
    const stats = await handle.stat()
    if (stats.isDirectory()) throw new RangeError(`image ${name}: ${path} is a folder`)
    // Files of /proc and /sys have no length, and content.
    if (!stats.isFile() || stats.size === 0) return new StreamSource(name, createReadStream('', { fd: handle, highWaterMark: RANGE_BYTES }))
    checkSize(name, stats.size)
    return new FileSource(name, path, handle, stats, await dataBlocks(handle.fd, stats, RANGE_BYTES))
  } catch (error) {
    await handle.close()
    throw error
  }
}

function checkSize(name: string, sizeBytes: number): void {
  if (sizeBytes > LIMITS.imageBytes) throw new RangeError(`image ${name}: more than ${LIMITS.imageBytes} bytes`)
}

class FileSource implements WholeSource {
  readonly kind = 'whole'
  readonly sizeBytes: number
  readonly #name: string
  readonly #path: string
  readonly #handle: FileHandle
  readonly #stats: Stats
  readonly #data: Uint8Array | undefined
  #range = 0

  constructor(name: string, path: string, handle: FileHandle, stats: Stats, data: Uint8Array | undefined) {
    this.sizeBytes = stats.size
    this.#name = name
    this.#path = path
    this.#handle = handle
    this.#stats = stats
    this.#data = data
  }

  async next(): Promise<SourceRange | undefined> {
    const range = this.#range++
    const offset = range * RANGE_BYTES
    if (offset >= this.sizeBytes) return undefined
    const sizeBytes = Math.min(RANGE_BYTES, this.sizeBytes - offset)
    return { sizeBytes, file: { fd: this.#handle.fd, offset }, hole: this.#data?.[range] === 0 }
  }

  async checkUnchanged(): Promise<void> {
    const now = await this.#handle.stat()
    if (now.size === this.#stats.size && now.mtimeMs === this.#stats.mtimeMs) return
    const object = this.#path
    throw new ThawError(
      'CONFLICT',
      `image ${this.#name}: ${object} changed while it was read: stop the guest first; nothing was published`,
      { object },
    )
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#handle.close()
  }
}

class StreamSource implements WholeSource {
  readonly kind = 'whole'
  sizeBytes: number | undefined
  readonly #name: string
  readonly #bytes: AsyncIterator<Uint8Array>
  #rest: Uint8Array = new Uint8Array(0)
  #total = 0

  constructor(name: string, bytes: AsyncIterable<Uint8Array>) {
    this.#name = name
    this.#bytes = bytes[Symbol.asyncIterator]()
  }

  async next(slot: Slot): Promise<SourceRange | undefined> {
    let filled = 0
    while (filled < RANGE_BYTES && (await this.#refill())) {
      const take = this.#rest.subarray(0, RANGE_BYTES - filled)
      copyWhole(take, slot.bytes, filled)
      filled += take.length
      this.#rest = this.#rest.subarray(take.length)
    }
    this.#total += filled
    checkSize(this.#name, this.#total)
    if (filled < RANGE_BYTES) this.sizeBytes = this.#total
    return filled === 0 ? undefined : { sizeBytes: filled, file: undefined, hole: false }
  }

  async #refill(): Promise<boolean> {
    while (this.#rest.length === 0) {
      const { done, value } = await this.#bytes.next()
      if (done) return false
      this.#rest = value
    }
    return true
  }

  async checkUnchanged(): Promise<void> {}

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#bytes.return?.()
  }
}
