/** An open snapshot: its images to read from, or to pull whole. */
import { randomUUID } from 'node:crypto'
import type { Engine, EngineStore, HeldSnapshot } from './engine.ts'
import { ThawError, type Tier } from './errors.ts'
import type { StoredSnapshot } from './find.ts'
import type { Layer } from './keys.ts'
import type { ImageKind, ManifestImage } from './manifest.ts'
import type { Pagers } from './pager/threads.ts'
import { type PullOptions, type PullResult, pullImages } from './pull.ts'
import { ImageReader, type ReadOptions, type SharedImage } from './reader.ts'
import type { Restore, RestoreOptions, RestoreSource } from './restore.ts'
import { closeAll } from './util/close-all.ts'

/** What an open snapshot reads from. */
export interface SnapshotSource {
  readonly engine: Engine
  readonly store: EngineStore
  /** Of all who have the snapshot open. */
  readonly held: HeldSnapshot
  readonly pagers: Pagers
  /** Publishes a child of it. */
  readonly push: RestoreSource['push']
  /** Nobody reads through this snapshot any more. */
  readonly onClose: () => void
}

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
  readonly #source: SnapshotSource
  readonly #stored: StoredSnapshot
  readonly #restores = new Set<Restore>()
  #closed: Promise<void> | undefined

  /** @internal */
  constructor(source: SnapshotSource, stored: StoredSnapshot) {
    const { id, root, manifest } = stored
    this.id = id
    this.root = root
    this.layer = manifest.layer
    this.tenant = manifest.tenant
    this.parent = manifest.parent
    this.createdAt = new Date(manifest.createdAtMs)
    this.labels = manifest.labels
    this.images = manifest.images.map(image => new SnapshotImage(image, source, () => this.#open()))
    this.#source = source
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
    return pullImages(this.#source.store, this.#stored, dir, options)
  }

  /**
   * Begins a restore: a life of this snapshot in one VM, to which front ends are given (`serveUffd`, `serveNbd`, `mount`).
   * @throws RangeError for options that cannot be
   */
  async restore(options: RestoreOptions = {}): Promise<Restore> {
    this.#open()
    const { Restore: Opened } = await import('./restore.ts')
    const { pagers, engine, push } = this.#source
    const { id = randomUUID() } = options
    const held = await this.#source.held.lend({ tenant: this.tenant ?? '', restore: id })
    const onClose = (ended: Restore): void => {
      held.release()
      this.#restores.delete(ended)
    }
    try {
      this.#open()
      const restore = new Opened(this, { pagers, engine, held, push, onClose }, { ...options, id })
      this.#restores.add(restore)
      return restore
    } catch (error) {
      held.release()
      throw error
    }
  }

  #open(): void {
    if (this.#closed !== undefined) throw new ThawError('CLOSED', `snapshot ${this.id} is closed`, { object: this.id })
  }

  /** Ends its restores; later calls reject with CLOSED. Idempotent. @throws what closing a restore throws, once all are closed */
  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    try {
      await closeAll(this.#restores)
    } finally {
      this.#source.onClose()
    }
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
  readonly #source: SnapshotSource
  readonly #reader: ImageReader
  readonly #checkOpen: () => void
  readonly #shared: SharedImage

  /** @internal */
  constructor({ name, kind, sizeBytes, map }: ManifestImage, source: SnapshotSource, checkOpen: () => void) {
    this.name = name
    this.kind = kind
    this.sizeBytes = sizeBytes
    this.#source = source
    this.#checkOpen = checkOpen
    const { starts, chunks, firsts } = map
    const { numbers, handle } = source.held
    this.#shared = { sizeBytes, starts, chunks, firsts, numbers, handle }
    this.#reader = new ImageReader(this.#shared, source.engine.arena)
  }

  /**
   * Bytes [offset, offset + length) of the image, verified, in a buffer that is the caller's; fewer at the end of the image.
   * @throws RangeError; CORRUPT, NOT_FOUND, UNAVAILABLE, TIMEOUT, DENIED with the tier that is to blame: never zeroes in place of bytes that cannot be had
   */
  async read(offset: number, length: number, options: ReadOptions = {}): Promise<Uint8Array> {
    if (!Number.isSafeInteger(length) || length < 0) throw new RangeError(`length ${length} is not a number of bytes`)
    const target = new Uint8Array(Math.max(0, Math.min(length, this.sizeBytes - offset)))
    await this.readInto(target, offset, options)
    return target
  }

  /**
   * Fills `target` with the image's bytes from `offset` on. The buffer is written to until the promise settles.
   * @returns how many bytes there were: less than `target.length` only at the end of the image.
   * @throws as `read`
   */
  async readInto(target: Uint8Array, offset: number, options: ReadOptions = {}): Promise<number> {
    options.signal?.throwIfAborted()
    const there = this.tryReadInto(target, offset)
    if (there > 0) {
      options.onServed?.('memory', there)
      return there
    }
    const { engine, held } = this.#source
    const onServed = (tier: Tier, bytes: number): void => {
      if (tier === 'memory') engine.countHits(1, bytes)
      options.onServed?.(tier, bytes)
    }
    return await this.#reader.readInto(held, target, offset, { ...options, onServed })
  }

  /**
   * Fills `target` with the image's bytes from `offset` on, if all of them are in L1 memory: at once, and without allocating anything.
   * @returns how many bytes that were, or 0: some are not there (`target` may have been written to nevertheless), or `offset` is at the end of the image.
   * @throws RangeError
   */
  tryReadInto(target: Uint8Array, offset: number): number {
    this.#checkOpen()
    if (!Number.isSafeInteger(offset) || offset < 0) throw new RangeError(`offset ${offset} is not a position in an image`)
    const bytes = this.#reader.tryReadInto(target, offset)
    if (this.#reader.chunksRead > 0 && bytes > 0) this.#source.engine.countHits(this.#reader.chunksRead, bytes)
    return bytes
  }

  /** @internal The image in shared memory. Readers on other threads end before the snapshot is closed: its chunk numbers may mean other chunks then. */
  share(): SharedImage {
    this.#checkOpen()
    return this.#shared
  }
}
