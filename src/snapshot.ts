/** An open snapshot: its images to read from, or to pull whole. */
import { ThawError } from './errors.ts'
import type { Layer } from './keys.ts'
import type { ImageKind, ManifestImage } from './manifest.ts'
import { type PullOptions, type PullResult, pullImages } from './pull.ts'
import { inlineOpener, Reader, type StoredSnapshot } from './reader.ts'
import type { CallOptions, ObjectStore } from './store.ts'

/** Made by `SnapshotStore.open`. Closing it lets go of opened chunks; the store stays open. */
export class Snapshot implements AsyncDisposable {
  /** Hex. */
  readonly id: string
  readonly root: string
  readonly layer: Layer
  /** Undefined: the platform's. */
  readonly tenant: string | undefined
  readonly parent: string | undefined
  readonly createdAt: Date
  readonly labels: ReadonlyMap<string, string>
  readonly images: readonly SnapshotImage[]
  readonly #objects: ObjectStore
  readonly #stored: StoredSnapshot
  #closed = false

  /** @internal */
  constructor(objects: ObjectStore, stored: StoredSnapshot) {
    const { id, root, manifest } = stored
    this.id = id
    this.root = root
    this.layer = manifest.layer
    this.tenant = manifest.tenant
    this.parent = manifest.parent
    this.createdAt = new Date(manifest.createdAtMs)
    this.labels = manifest.labels
    const reader = new Reader(stored, inlineOpener(objects))
    this.images = manifest.images.map(image => new SnapshotImage(image, reader, () => this.#open()))
    this.#objects = objects
    this.#stored = stored
  }

  /** @throws NOT_FOUND, with the names there are */
  image(name: string): SnapshotImage {
    const image = this.images.find(image => image.name === name)
    if (image !== undefined) return image
    const names = this.images.map(image => image.name).join(', ')
    throw new ThawError('NOT_FOUND', `snapshot ${this.id} has no image ${JSON.stringify(name)}: it has ${names}`, { object: name })
  }

  /**
   * Writes whole images to `dir`, as sparse files of mode 0600 named like the images; files of these names are replaced once all are complete.
   * @throws NOT_FOUND, CORRUPT, WRONG_KEY, BAD_FORMAT, UNAVAILABLE, TIMEOUT, DENIED, NO_SPACE: then no file was changed
   */
  pull(dir: string, options: PullOptions = {}): Promise<PullResult> {
    this.#open()
    return pullImages(this.#objects, this.#stored, dir, options)
  }

  #open(): void {
    if (this.#closed) throw new ThawError('CLOSED', `snapshot ${this.id} is closed`, { object: this.id })
  }

  /** Later calls reject with CLOSED. Idempotent. */
  async close(): Promise<void> {
    this.#closed = true
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

/** One image of an open snapshot. */
export class SnapshotImage {
  readonly name: string
  readonly kind: ImageKind
  readonly sizeBytes: number
  readonly #image: ManifestImage
  readonly #reader: Reader
  readonly #checkOpen: () => void

  /** @internal */
  constructor(image: ManifestImage, reader: Reader, checkOpen: () => void) {
    this.name = image.name
    this.kind = image.kind
    this.sizeBytes = image.sizeBytes
    this.#image = image
    this.#reader = reader
    this.#checkOpen = checkOpen
  }

  /**
   * Bytes [offset, offset + length) of the image, verified, in a buffer that is the caller's; fewer at the end of the image.
   * @throws RangeError; CORRUPT, UNAVAILABLE, TIMEOUT: never zeroes in place of bytes that cannot be had
   */
  async read(offset: number, length: number, options: CallOptions = {}): Promise<Uint8Array> {
    if (!Number.isSafeInteger(length) || length < 0) throw new RangeError(`length ${length} is not a number of bytes`)
    const target = new Uint8Array(Math.max(0, Math.min(length, this.sizeBytes - offset)))
    await this.readInto(target, offset, options)
    return target
  }

  /**
   * Fills `target` with the image's bytes from `offset` on. The buffer is written to until the promise settles.
   * @returns how many bytes there were: less than `target.length` only at the end of the image.
   */
  async readInto(target: Uint8Array, offset: number, options: CallOptions = {}): Promise<number> {
    this.#checkOpen()
    if (!Number.isSafeInteger(offset) || offset < 0) throw new RangeError(`offset ${offset} is not a position in an image`)
    options.signal?.throwIfAborted()
    return this.#reader.readInto(this.#image, target, offset, options)
  }
}
