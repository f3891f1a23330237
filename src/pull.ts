/**
 * Whole images out of a store, as sparse files: each chunk is fetched once and written wherever its pages belong; pages of zeros are left as holes.
 *
 * Files are written under another name in the same folder and renamed when all are complete, so a name never stands for half an image, and a VMM that has the old
 * file open keeps it. They are not synced: a pull can be repeated.
 */
import { randomBytes } from 'node:crypto'
import { type FileHandle, lstat, open, rename, rm } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import type { SealedBytes } from './cache/tiered.ts'
import { PAGE_BYTES } from './chunk.ts'
import { ChunkTable } from './engine/chunk-table.ts'
import type { EngineStore } from './engine.ts'
import { fromErrno, ThawError, type Tier } from './errors.ts'
import type { StoredSnapshot } from './find.ts'
import type { ManifestImage } from './manifest.ts'
import { ZERO } from './pagemap.ts'
import { SealPool } from './seal/pool.ts'
import type { Placement } from './seal/tasks.ts'
import { forEachAtOnce } from './util/at-once.ts'
import { makeFolders } from './util/make-folders.ts'
import { Urgency } from './util/urgency.ts'

export interface PullProgress {
  /** Bytes of the images that are not holes. */
  readonly totalBytes: number
  readonly writtenBytes: number
  readonly totalChunks: number
  readonly fetchedChunks: number
  /** Sealed bytes. */
  readonly fetchedBytes: number
  /** Of these, how many each tier served. */
  readonly servedBytes: Readonly<Record<Exclude<Tier, 'memory'>, number>>
}

export interface PullOptions {
  /** Names; default: all. */
  readonly images?: readonly string[] | undefined
  /** Names of files in the folder that are not to be those of their images, by image. */
  readonly fileNames?: Readonly<Record<string, string>> | undefined
  readonly signal?: AbortSignal | undefined
  /** Called after each chunk, at most ten times a second, and at the end. */
  readonly onProgress?: ((progress: PullProgress) => void) | undefined
}

export interface PulledImage {
  readonly name: string
  readonly path: string
  readonly sizeBytes: number
  /** Without the holes. */
  readonly writtenBytes: number
}

export interface PullResult {
  readonly images: readonly PulledImage[]
  readonly fetchedChunks: number
  readonly fetchedBytes: number
  readonly servedBytes: PullProgress['servedBytes']
  readonly durationMs: number
}

/** Guest memory is as secret as the guest. */
const FILE_MODE = 0o600
const PROGRESS_INTERVAL_MS = 100
/** Chunks being opened and written while others are fetched. */
const SPARE_CHUNKS = 4

interface Target {
  readonly image: ManifestImage
  readonly path: string
  readonly temporaryPath: string
  readonly handle: FileHandle
}

/**
 * Writes the images to `dir`, which is made if it is missing; files of these names there are replaced.
 * @throws NOT_FOUND for an image that does not exist; CORRUPT, UNAVAILABLE, NO_SPACE, DENIED: then no file was changed.
 */
export async function pullImages(
  store: EngineStore,
  snapshot: StoredSnapshot,
  dir: string,
  options: PullOptions = {},
): Promise<PullResult> {
  const startedAt = performance.now()
  const images = selectImages(snapshot, options.images)
  await makeFolders(dir).catch(error => {
    throw fromErrno(error, 'cannot make the folder', dir)
  })
  const targets: Target[] = []
  try {
    for (const image of images) targets.push(await openTarget(resolve(dir), image, options.fileNames?.[image.name]))
    for (const target of targets) await setLength(target)
    const { fetchedBytes, fetchedChunks, servedBytes } = await writeChunks(store, snapshot, targets, options)
    for (const { temporaryPath, path } of targets) {
      await rename(temporaryPath, path).catch(error => {
        throw fromErrno(error, 'cannot put the image in place', path)
      })
    }
    const pulled = targets.map(({ image, path }) => ({
      name: image.name,
      path,
      sizeBytes: image.sizeBytes,
      writtenBytes: usedBytes(image),
    }))
    return { images: pulled, fetchedBytes, fetchedChunks, servedBytes, durationMs: performance.now() - startedAt }
  } finally {
    for (const { handle, temporaryPath } of targets) {
      await handle.close()
      await rm(temporaryPath, { force: true })
    }
  }
}

function selectImages({ id, manifest }: StoredSnapshot, names: readonly string[] | undefined): readonly ManifestImage[] {
  if (names === undefined || names.length === 0) return manifest.images
  return [...new Set(names)].map(name => {
    const image = manifest.images.find(image => image.name === name)
    if (image !== undefined) return image
    const there = manifest.images.map(image => image.name).join(', ')
    throw new ThawError('NOT_FOUND', `snapshot ${id} has no image ${JSON.stringify(name)}: it has ${there}`, { object: name })
  })
}

async function openTarget(dir: string, image: ManifestImage, fileName: string = image.name): Promise<Target> {
  const path = join(dir, fileName)
  if (await isFolder(path)) throw new ThawError('CONFLICT', `cannot write the image: ${path} is a folder`, { object: path })
  const temporaryPath = join(dir, `.${image.name}.thaw-${randomBytes(6).toString('hex')}`)
  try {
    return { image, path, temporaryPath, handle: await open(temporaryPath, 'wx', FILE_MODE) }
  } catch (error) {
    throw fromErrno(error, 'cannot write the image', path)
  }
}

async function isFolder(path: string): Promise<boolean> {
  return await lstat(path).then(
    stats => stats.isDirectory(),
    () => false,
  )
}

async function setLength({ image, path, handle }: Target): Promise<void> {
  try {
    await handle.truncate(image.sizeBytes)
  } catch (error) {
    throw fromErrno(error, 'cannot write the image', path)
  }
}

async function writeChunks(
  store: EngineStore,
  snapshot: StoredSnapshot,
  targets: readonly Target[],
  { signal, onProgress }: PullOptions,
): Promise<PullProgress> {
  const placements = new ChunkPlacements(targets, snapshot.manifest.pages.length)
  const table = new ChunkTable(snapshot.manifest, snapshot.root)
  const done = {
    totalBytes: targets.reduce((sum, { image }) => sum + usedBytes(image), 0),
    writtenBytes: 0,
    totalChunks: placements.used.length,
    fetchedChunks: 0,
    fetchedBytes: 0,
    servedBytes: { disk: 0, l2: 0, origin: 0 },
  }
  let reportedAt = 0
  await using pool = new SealPool({ slots: 0, sealedSlab: store.slab })
  await forEachAtOnce(placements.used, store.concurrency + SPARE_CHUNKS, async index => {
    signal?.throwIfAborted()
    const { id, key, pages, sealed } = table.at(index)
    const write = async ({ slot, tier }: SealedBytes): Promise<void> => {
      done.writtenBytes += await pool.run(undefined, {
        kind: 'write',
        sealed: { index: slot, sizeBytes: sealed.sizeBytes },
        chunk: { id, key, pages },
        placements: placements.of(index),
      })
      done.servedBytes[tier] += sealed.sizeBytes
    }
    await store.withSealed(sealed, write, { signal, urgency: new Urgency('bulk') })
    done.fetchedChunks++
    done.fetchedBytes += sealed.sizeBytes
    const now = performance.now()
    if (onProgress === undefined || now - reportedAt < PROGRESS_INTERVAL_MS) return
    reportedAt = now
    onProgress({ ...done, servedBytes: { ...done.servedBytes } })
  })
  onProgress?.({ ...done })
  return done
}

function usedBytes({ map, sizeBytes }: ManifestImage): number {
  let bytes = 0
  for (const { chunk, page, count } of map.runs()) {
    if (chunk !== ZERO) bytes += Math.min((page + count) * PAGE_BYTES, sizeBytes) - page * PAGE_BYTES
  }
  return bytes
}

/** Which runs of which images are of a chunk: the runs sorted by chunk, as columns. */
class ChunkPlacements {
  readonly #targets: readonly Target[]
  /** Runs of all targets, one target's behind another's, sorted by chunk. */
  readonly #order: Uint32Array
  /** Where a chunk's runs begin in `#order`; chunks + 1 entries. */
  readonly #from: Uint32Array
  /** Number of the first run of each target. */
  readonly #bases: number[] = []
  /** Chunks that have a run, in the order in which the images need them. */
  readonly used: readonly number[]

  constructor(targets: readonly Target[], chunks: number) {
    this.#targets = targets
    const maps = targets.map(({ image }) => image.map)
    let runs = 0
    for (const map of maps) {
      this.#bases.push(runs)
      runs += map.runCount
    }
    const from = new Uint32Array(chunks + 1)
    const used = new Set<number>()
    for (const { chunks } of maps) {
      for (const chunk of chunks) {
        if (chunk === ZERO) continue
        from[chunk + 1]!++
        used.add(chunk)
      }
    }
    for (let chunk = 0; chunk < chunks; chunk++) from[chunk + 1]! += from[chunk]!
    const next = from.slice()
    this.#order = new Uint32Array(from[chunks]!)
    maps.forEach((map, target) => {
      map.chunks.forEach((chunk, run) => {
        if (chunk !== ZERO) this.#order[next[chunk]!++] = this.#bases[target]! + run
      })
    })
    this.#from = from
    this.used = [...used]
  }

  of(chunk: number): Placement[] {
    const placements: Placement[] = []
    for (let at = this.#from[chunk]!; at < this.#from[chunk + 1]!; at++) placements.push(this.#placement(this.#order[at]!))
    return placements
  }

  #placement(numbered: number): Placement {
    const target = this.#bases.findLastIndex(base => base <= numbered)
    const { image, handle, path } = this.#targets[target]!
    const { starts, firsts } = image.map
    const run = numbered - this.#bases[target]!
    const offset = starts[run]! * PAGE_BYTES
    const end = Math.min(starts[run + 1]! * PAGE_BYTES, image.sizeBytes)
    return { fd: handle.fd, path, offset, from: firsts[run]! * PAGE_BYTES, sizeBytes: end - offset }
  }
}
