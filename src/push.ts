/**
 * Images to a published snapshot: chunks sealed and stored, then the wrapped data key, then the manifest, then the tag (docs/FORMAT.md section 9).
 *
 * The manifest's put-if-absent is the commit: a reader never sees a snapshot whose chunks are missing. A push that dies leaves chunks nobody refers to, and
 * running it again sends only what is not there.
 */
import { randomBytes } from 'node:crypto'
import type { ImageChanges } from './changes.ts'
import { ThawError } from './errors.ts'
import type { StoreAccess, StoredSnapshot } from './find.ts'
import { DATA_KEY_BYTES, encodeWrappedKeys } from './keys/wrapped.ts'
import { type Keyring, LAYERS, type Layer } from './keys.ts'
import { manifestKey, wrappedKeysKey } from './layout.ts'
import { encodeManifest } from './manifest/encode.ts'
import { DIGEST_BYTES, type ImageKind, LIMITS, type Manifest, type ManifestImage, snapshotIdOf } from './manifest.ts'
import { checkImageName, checkLabel, checkTenantName } from './names.ts'
import { PageMap, ZERO } from './pagemap.ts'
import { type ChunkTable, ChunkWriter } from './push/chunk-writer.ts'
import { copyInherited } from './push/copy-inherited.ts'
import { pushImage } from './push/image.ts'
import type { ImageContext } from './push/image-writer.ts'
import { Outbox } from './push/outbox.ts'
import { Primer } from './push/primer.ts'
import { newPushCounts, type PushCounts, type PushProgress } from './push/progress.ts'
import { repackImages } from './push/repack.ts'
import { RANGES_AHEAD } from './push/scan.ts'
import { openSource, type Source } from './push/source.ts'
import { ChunkReader, OPENED_CHUNKS_MAX } from './reader/chunk-reader.ts'
import { SealPool } from './seal/pool.ts'

/** One image to push. The kind is by default `memory` for an image of that name, `blob` for `state`, else `disk`; of changes, that of the parent's image. */
export type ImageSource = { readonly kind?: ImageKind | undefined } & (
  | {
      /** A file: its holes are not read. A pipe or device is read to its end. */
      readonly path: string
    }
  | {
      /** The bytes themselves, in order and in pieces of any size; each piece may be reused when the next is asked for. */
      readonly stream: AsyncIterable<Uint8Array>
    }
  | {
      /**
       * A VMM's diff file: sparse, of the size that the parent's image has. Holes mean the parent's bytes, data means perhaps changed, zeros in data mean zero. UNSUPPORTED where its
       * holes cannot be told (without koffi; on file systems that do not tell them page by page).
       */
      readonly diff: string
    }
  | {
      /** What may differ from the parent's image, which has the same size. Descriptors in it stay the caller's. */
      readonly changes: ImageChanges
    }
)

export interface PushSpec {
  readonly layer: Layer
  /** Whose snapshot it is; undefined: the platform's. */
  readonly tenant?: string | undefined
  readonly labels?: Readonly<Record<string, string>> | undefined
  /** Where the keyring has no secret of the layer (a worker's), seal under a random one, which shares nothing; default: that is WRONG_KEY. */
  readonly orOwnSecret?: boolean | undefined
  /** Take over the parent's images that are not named in `images`. */
  readonly inherit?: boolean | undefined
  readonly images: Readonly<Record<string, ImageSource>>
}

export interface PushOptions {
  readonly signal?: AbortSignal | undefined
  /** Give the L2 cache the manifest and every chunk of this snapshot's own too, so that the first restore finds them there. That it keeps none fails no push: it is counted. */
  readonly prime?: boolean | undefined
  /** Called at most ten times a second, and at the end of each phase. The object is fresh each time. */
  readonly onProgress?: ((progress: PushProgress) => void) | undefined
}

/** Where a push writes. */
export interface PushTarget extends StoreAccess {
  readonly keyring: Keyring
  /** The active root. */
  readonly root: { readonly id: string; readonly salt: Uint8Array }
}

export interface PushedImage {
  readonly name: string
  readonly kind: ImageKind
  readonly sizeBytes: number
}

export interface PushedSnapshot {
  /** Hex. */
  readonly id: string
  readonly root: string
  readonly layer: Layer
  readonly tenant: string | undefined
  readonly parent: string | undefined
  readonly images: readonly PushedImage[]
  /** Chunks the snapshot consists of, the parent's included. */
  readonly chunks: number
  readonly manifestBytes: number
  readonly counts: Readonly<PushCounts>
}

const PROGRESS_INTERVAL_MS = 100
/** Slots beside those of the ranges read ahead and of the stores' calls: a pack being filled, and chunks of the parent being opened. */
const SPARE_SLOTS = 4
const LINEAGE_KEY_BYTES = DIGEST_BYTES
const DEFAULT_KINDS: Readonly<Record<string, ImageKind>> = { memory: 'memory', state: 'blob' }

export function defaultKind(name: string): ImageKind {
  return Object.hasOwn(DEFAULT_KINDS, name) ? DEFAULT_KINDS[name]! : 'disk'
}

/**
 * Pushes and publishes; sets no tag and does not look at the root's state again: that is the caller's.
 * @throws RangeError, TypeError for a spec that cannot be; CONFLICT if a file changed while it was read; WRONG_KEY, NOT_FOUND, NO_SPACE, DENIED, UNAVAILABLE
 */
export async function pushSnapshot(
  target: PushTarget,
  spec: PushSpec,
  parent: StoredSnapshot | undefined,
  options: PushOptions = {},
): Promise<PushedSnapshot> {
  checkSpec(spec, parent)
  const push = new Push(target, spec, parent, options)
  return await push.run()
}

function checkSpec(spec: PushSpec, parent: StoredSnapshot | undefined): void {
  if (!LAYERS.includes(spec.layer)) throw new RangeError(`layer ${JSON.stringify(spec.layer)} is not one of ${LAYERS.join(', ')}`)
  if (spec.tenant !== undefined) checkTenantName(spec.tenant)
  const names = Object.keys(spec.images)
  names.forEach(checkImageName)
  const labels = Object.entries(spec.labels ?? {})
  for (const [name, value] of labels) checkLabel(name, value)
  if (labels.length > LIMITS.labels) throw new RangeError(`${labels.length} labels: at most ${LIMITS.labels}`)
  if (names.length > LIMITS.images) throw new RangeError(`${names.length} images: at most ${LIMITS.images}`)
  if (names.length === 0 && !spec.inherit) throw new RangeError('no image: name at least one, as NAME=FILE')
  if (spec.inherit && parent === undefined) throw new RangeError('inherit needs a parent')
  if (parent !== undefined) checkParent(spec, parent)
}

/** A layer extends one below it or its own kind, and nobody extends another tenant's snapshot: its chunk keys would go with it. */
function checkParent({ layer, tenant }: PushSpec, { id, manifest }: StoredSnapshot): void {
  if (LAYERS.indexOf(manifest.layer) > LAYERS.indexOf(layer)) {
    throw new RangeError(`a snapshot of layer ${layer} cannot have the ${manifest.layer} snapshot ${id} as its parent`)
  }
  if (manifest.tenant !== undefined && manifest.tenant !== tenant) {
    throw new ThawError('DENIED', `the parent ${id} belongs to another tenant than the new snapshot`, { object: id })
  }
}

class Push {
  readonly #target: PushTarget
  readonly #spec: PushSpec
  readonly #parent: StoredSnapshot | undefined
  readonly #onProgress: PushOptions['onProgress']
  readonly #primer: Primer | undefined
  readonly #failed = new AbortController()
  readonly #signal: AbortSignal
  readonly #counts = newPushCounts()
  #totalBytes: number | undefined
  #reportedAt = 0

  constructor(target: PushTarget, spec: PushSpec, parent: StoredSnapshot | undefined, { signal, onProgress, prime }: PushOptions) {
    this.#target = target
    this.#spec = spec
    this.#parent = parent
    this.#onProgress = onProgress
    this.#primer = prime ? new Primer(target.engine, this.#counts) : undefined
    this.#signal = signal === undefined ? this.#failed.signal : AbortSignal.any([signal, this.#failed.signal])
  }

  async run(): Promise<PushedSnapshot> {
    const { objects, engine, keyring, root } = this.#target
    const { layer, tenant, orOwnSecret } = this.#spec
    const sealer = await keyring.sealer(layer, tenant, { orOwnSecret })
    await using sources = await this.#openSources()
    await using pool = new SealPool({
      slots: RANGES_AHEAD + SPARE_SLOTS + objects.concurrency + (this.#parent === undefined ? 0 : OPENED_CHUNKS_MAX),
      sealedSlab: engine.slab,
      sealing: { secret: sealer.secret, salt: root.salt, compress: sealer.compress, pad: sealer.pad },
    })
    const writer = new ChunkWriter({ objects, root: root.id, domain: sealer.domain }, this.#parent, this.#counts, this.#primer)
    const lineageKey = new Uint8Array(this.#parent?.manifest.lineageKey ?? randomBytes(LINEAGE_KEY_BYTES))
    const images = await this.#pushImages(sources.byName, pool, writer, lineageKey).catch(error => this.#keepStored(error))
    // All at once, now that nothing is read any more: each was looked at by itself, at another time.
    for (const source of sources.byName.values()) await source.checkUnchanged().catch(error => this.#keepStored(error))
    const table = writer.finish(usedChunks(images), layer)
    if (this.#parent !== undefined) await copyInherited(objects, this.#parent.root, root.id, table, { signal: this.#signal })
    return await this.#publish(table, images, lineageKey)
  }

  /** After a failure what was stored is made to last, so that the next try need not send it again. That this fails as well is not what went wrong. */
  async #keepStored(failure: unknown): Promise<never> {
    await this.#target.objects.sync().catch(() => undefined)
    throw failure
  }

  async #openSources(): Promise<{ byName: Map<string, Source> } & AsyncDisposable> {
    const byName = new Map<string, Source>()
    const close = async (): Promise<void> => {
      for (const source of byName.values()) await source[Symbol.asyncDispose]()
    }
    try {
      for (const [name, source] of Object.entries(this.#spec.images))
        byName.set(name, await openSource(name, source, this.#parentImage(name)))
    } catch (error) {
      await close()
      throw error
    }
    const sizes = [...byName.values()].map(source => source.sizeBytes)
    if (!sizes.includes(undefined)) this.#totalBytes = sizes.reduce<number>((sum, bytes) => sum + bytes!, 0)
    return { byName, [Symbol.asyncDispose]: close }
  }

  async #pushImages(sources: Map<string, Source>, pool: SealPool, writer: ChunkWriter, lineageKey: Uint8Array): Promise<ManifestImage[]> {
    const outbox = new Outbox(writer, this.#failed, { signal: this.#signal })
    const parent = this.#parent
    const reader = parent && new ChunkReader(this.#target.engine, pool, parent)
    const images: ManifestImage[] = []
    try {
      const context = (image: string | undefined): ImageContext => ({
        pool,
        outbox,
        lineageKey,
        counts: this.#counts,
        signal: this.#signal,
        report: () => this.#report('images', image),
      })
      for (const [name, source] of sources) {
        const image = this.#parentImage(name)
        const kind = this.#spec.images[name]!.kind ?? (source.kind === 'changes' ? image!.kind : defaultKind(name))
        images.push(await pushImage(name, kind, source, image && { image, reader: reader! }, context(name)))
      }
      images.push(...this.#inheritedImages(sources))
      const final = reader === undefined ? images : await repackImages(images, parent!.manifest.pages, reader, context(undefined))
      await outbox.drained()
      this.#signal.throwIfAborted()
      this.#report('images', undefined, true)
      return final
    } finally {
      await outbox.drained()
      // The first failure is the cause of those that followed it.
      this.#signal.throwIfAborted()
    }
  }

  #parentImage(name: string): ManifestImage | undefined {
    return this.#parent?.manifest.images.find(image => image.name === name)
  }

  #inheritedImages(sources: ReadonlyMap<string, Source>): ManifestImage[] {
    if (!this.#spec.inherit) return []
    return this.#parent!.manifest.images.filter(image => !sources.has(image.name))
  }

  async #publish(table: ChunkTable, images: readonly ManifestImage[], lineageKey: Uint8Array): Promise<PushedSnapshot> {
    const { objects, keyring, root } = this.#target
    const { layer, tenant, labels } = this.#spec
    const options = { signal: this.#signal }
    const { indexOf, ...chunks } = table
    const manifest: Manifest = {
      ...chunks,
      layer,
      tenant,
      parent: this.#parent?.id,
      sameContentAs: undefined,
      createdAtMs: Date.now(),
      labels: new Map(Object.entries(labels ?? {})),
      lineageKey,
      images: images.map(image => ({ ...image, map: renumber(image.map, indexOf) })),
    }
    const dataKey = randomBytes(DATA_KEY_BYTES)
    const bytes = encodeManifest(manifest, dataKey)
    const snapshotId = snapshotIdOf(bytes)
    const id = snapshotId.toString('hex')
    const wrapped = await keyring.wrap(dataKey, snapshotId, tenant)
    this.#report('sync', undefined, true)
    await objects.put(wrappedKeysKey(root.id, id), encodeWrappedKeys(snapshotId, [wrapped]), options)
    await objects.sync(options)
    this.#report('publish', undefined, true)
    if (!(await objects.putIfAbsent(manifestKey(root.id, id), bytes, options))) {
      throw new ThawError('CORRUPT', `another manifest lies under the id ${id}`, { object: manifestKey(root.id, id) })
    }
    await this.#primer?.manifest(id, bytes)
    return {
      id,
      root: root.id,
      layer,
      tenant,
      parent: this.#parent?.id,
      images: images.map(({ name, kind, sizeBytes }) => ({ name, kind, sizeBytes })),
      chunks: table.pages.length,
      manifestBytes: bytes.length,
      counts: { ...this.#counts },
    }
  }

  #report(phase: PushProgress['phase'], image: string | undefined, always = false): void {
    if (this.#onProgress === undefined) return
    const now = performance.now()
    if (!always && now - this.#reportedAt < PROGRESS_INTERVAL_MS) return
    this.#reportedAt = now
    this.#onProgress({ phase, image, totalBytes: this.#totalBytes, ...this.#counts })
  }
}

function usedChunks(images: readonly ManifestImage[]): Uint8Array {
  const highest = images.reduce((most, { map }) => map.chunks.reduce((a, b) => Math.max(a, b), most), ZERO)
  const used = new Uint8Array(highest + 1)
  for (const { map } of images) for (const chunk of map.chunks) if (chunk !== ZERO) used[chunk] = 1
  return used
}

function renumber(map: PageMap, indexOf: Int32Array): PageMap {
  return new PageMap(
    map.starts,
    map.chunks.map(chunk => (chunk === ZERO ? ZERO : indexOf[chunk]!)),
    map.firsts,
  )
}
