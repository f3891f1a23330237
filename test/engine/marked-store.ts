/**
 * A directory store with sealed chunks and no manifest, for tests of engines: every eight bytes of every page say which chunk and page they belong to.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PAGE_BYTES } from '../../src/chunk.ts'
import type { StoredChunk } from '../../src/engine/chunk-table.ts'
import { type ChunkColumns, ChunkTable } from '../../src/engine/chunk-table.ts'
import type { ImageColumns } from '../../src/reader.ts'
import { encodePayload, SEALED_BYTES_MAX, sealPayload } from '../../src/seal.ts'
import { openDirectoryStore } from '../../src/store/directory.ts'
import type { ObjectStore } from '../../src/store.ts'

export const ROOT = '5e3b1c0a9f8d7e6c'

export interface MarkedStore extends AsyncDisposable {
  /** A temporary folder; everything below it goes with the store. */
  readonly dir: string
  readonly objects: ObjectStore
  readonly columns: ChunkColumns
  readonly table: ChunkTable
}

/** That many chunks of that many pages each. */
export async function markedStore(chunks: number, pages = 2): Promise<MarkedStore> {
  const dir = await mkdtemp(join(tmpdir(), 'thaw-engine-'))
  const objects = openDirectoryStore(join(dir, 'store'))
  const columns: ChunkColumns = {
    segments: [{ origin: undefined, layer: 'os', domain: '0a1b2c3d4e5f6071', count: chunks }],
    ids: new Uint8Array(32 * chunks),
    keys: new Uint8Array(32 * chunks),
    sealedBytes: new Uint32Array(chunks),
    pages: new Uint8Array(chunks).fill(pages),
  }
  const bodies = Array.from({ length: chunks }, (_, chunk) => seal(chunk, pages, columns))
  const table = new ChunkTable(columns, ROOT)
  for (const [chunk, body] of bodies.entries()) await objects.put(table.at(chunk).sealed.objectKey, body)
  await objects.sync()
  return {
    dir,
    objects,
    columns,
    table,
    async [Symbol.asyncDispose]() {
      await objects.close()
      await rm(dir, { recursive: true, force: true })
    },
  }
}

function seal(chunk: number, pages: number, columns: ChunkColumns): Buffer {
  const payload = Buffer.alloc(SEALED_BYTES_MAX)
  const payloadBytes = encodePayload(markedPages(chunk, pages), pages, { compress: true, pad: false }, payload)
  const sealed = Buffer.alloc(payloadBytes)
  const { id, key, sizeBytes } = sealPayload(payload.subarray(0, payloadBytes), Buffer.alloc(32, 7), Buffer.alloc(16, 9), sealed)
  columns.ids.set(id, 32 * chunk)
  columns.keys.set(key, 32 * chunk)
  columns.sealedBytes[chunk] = sizeBytes
  return sealed
}

/** The pages of a chunk. */
export function markedPages(chunk: number, pages: number): Buffer {
  const words = new Uint32Array((pages * PAGE_BYTES) / 4)
  for (let at = 0; at < words.length; at += 2) {
    words[at] = chunk
    words[at + 1] = Math.floor((at * 4) / PAGE_BYTES)
  }
  return Buffer.from(words.buffer)
}

/** All chunks one behind the other, as an image in shared memory. */
export function wholeImage({ pages }: ChunkColumns, numbers: Uint32Array): ImageColumns {
  const chunks = pages.length
  const starts = new Uint32Array(new SharedArrayBuffer(4 * (chunks + 1)))
  const indices = new Int32Array(new SharedArrayBuffer(4 * chunks))
  for (let chunk = 0; chunk < chunks; chunk++) {
    starts[chunk + 1] = starts[chunk]! + pages[chunk]!
    indices[chunk] = chunk
  }
  return {
    sizeBytes: starts[chunks]! * PAGE_BYTES,
    starts,
    chunks: indices,
    firsts: new Uint8Array(new SharedArrayBuffer(chunks)),
    numbers,
  }
}

/** Sealed bytes as the store has them. */
export function sealedIn(objects: ObjectStore, { sealed }: StoredChunk): Promise<Uint8Array> {
  return objects.get(sealed.objectKey, { sizeMax: SEALED_BYTES_MAX })
}
