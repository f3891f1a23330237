/** What the sections share: a directory store with an image that takes whole chunks, reads of each chunk once, and the distribution of their times. */
import { randomBytes } from 'node:crypto'
import { mkdtemp, open } from 'node:fs/promises'
import { join } from 'node:path'
import { RANGE_BYTES } from '../../src/chunk.ts'
import { ChunkTable, type StoredChunk } from '../../src/engine/chunk-table.ts'
import { openSnapshot } from '../../src/find.ts'
import { createCache, createFileKeyring, type FileKeyring, initStore, openStore, type SnapshotImage } from '../../src/index.ts'
import { openObjectStore } from '../../src/store/open.ts'
import type { Bench } from '../harness.ts'
import { writeDenseImage } from '../peers/dense.ts'

/** What the pages are: `dense` compresses 1.5 : 1, `random` not at all. */
export type Content = 'dense' | 'random'

export interface Course {
  readonly url: string
  readonly keyring: FileKeyring
  /** The snapshot's tag; its only image is `memory`. */
  readonly tag: string
  readonly id: string
  readonly root: string
  readonly chunks: readonly StoredChunk[]
}

const TAG = 'course:1'

/** Pushes an image of so many full chunks. */
export async function makeCourse({ dir }: Pick<Bench, 'dir'>, content: Content, chunks: number): Promise<Course> {
  const image = join(await mkdtemp(join(dir, `${content}-`)), 'image')
  if (content === 'dense') await writeDenseImage(image, chunks * RANGE_BYTES)
  else await writeRandom(image, chunks)
  return await courseOf({ dir }, image)
}

/** Pushes an image to a store of its own. */
export async function courseOf({ dir }: Pick<Bench, 'dir'>, image: string): Promise<Course> {
  const folder = await mkdtemp(join(dir, 'course-'))
  const url = `file://${join(folder, 'store')}`
  const keyring = await createFileKeyring(join(folder, 'keys'))
  await initStore(url, { keyring })
  await using store = await openStore(url, { keyring })
  const { id, root } = await store.push({ layer: 'os', tag: TAG, images: { memory: { path: image } } })
  return { url, keyring, tag: TAG, id, root, chunks: await chunksOf(url, keyring, id, root) }
}

async function writeRandom(path: string, chunks: number): Promise<void> {
  await using file = await open(path, 'w')
  for (let chunk = 0; chunk < chunks; chunk++) await file.writeFile(randomBytes(RANGE_BYTES))
}

async function chunksOf(url: string, keyring: FileKeyring, id: string, root: string): Promise<StoredChunk[]> {
  await using objects = await openObjectStore(url)
  await using cache = await createCache({ memoryBytes: 0, thread: 'main' })
  const engine = await cache.engine.openStore(objects)
  const { manifest } = await openSnapshot({ objects, engine }, keyring, id, [root], {})
  const table = new ChunkTable(manifest, root)
  return Array.from(manifest.pages, (_, index) => table.at(index))
}

/** Reads a page of each chunk of an image, one after the other; milliseconds of each read. */
export async function readEach(image: SnapshotImage): Promise<Float64Array> {
  const page = Buffer.alloc(4096)
  const ms = new Float64Array(Math.floor(image.sizeBytes / RANGE_BYTES))
  for (let chunk = 0; chunk < ms.length; chunk++) {
    const started = performance.now()
    await image.readInto(page, chunk * RANGE_BYTES)
    ms[chunk] = performance.now() - started
  }
  return ms
}

/** The value that a share `q` of all does not exceed. */
export function quantile(values: Float64Array, q: number): number {
  const sorted = values.slice().sort()
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? Number.NaN
}

export function joined(all: readonly Float64Array[]): Float64Array {
  return Float64Array.from(all.flatMap(each => [...each]))
}

export function showQuantiles(values: Float64Array): string {
  return `p50, p90, p99 ${[0.5, 0.9, 0.99].map(q => quantile(values, q).toFixed(2)).join(', ')}`
}
