/** Where the chunks of a snapshot lie, and how they open: rows of its columns, made when they are asked for. */
import type { SealedRef } from '../cache/tiered.ts'
import { chunkKey as chunkObjectKey } from '../layout.ts'
import { chunkId, chunkKey, type Manifest, type Outline, segmentOfChunks } from '../manifest.ts'
import type { ChunkRef } from '../seal.ts'

/** All that is known of a chunk before it is fetched. Id and key own their memory, so that they can be posted to a thread. */
export interface StoredChunk extends ChunkRef {
  readonly sealed: SealedRef
}

/** The columns that say where chunks lie. */
export type PlaceColumns = Pick<Outline, 'segments' | 'ids' | 'sealedBytes'>
/** And those that say how they open. */
export type ChunkColumns = PlaceColumns & Pick<Manifest, 'keys' | 'pages'>

export class ChunkPlaces {
  readonly #columns: PlaceColumns
  readonly #root: string
  readonly #segmentOf: Uint16Array

  constructor(columns: PlaceColumns, root: string) {
    this.#columns = columns
    this.#root = root
    this.#segmentOf = segmentOfChunks(columns)
  }

  at(index: number): SealedRef {
    const id = chunkId(this.#columns, index).toString('hex')
    const { domain } = this.#columns.segments[this.#segmentOf[index]!]!
    return { id, objectKey: chunkObjectKey(this.#root, domain, id), sizeBytes: this.#columns.sealedBytes[index]! }
  }
}

export class ChunkTable {
  readonly #columns: ChunkColumns
  readonly #places: ChunkPlaces

  constructor(columns: ChunkColumns, root: string) {
    this.#columns = columns
    this.#places = new ChunkPlaces(columns, root)
  }

  at(index: number): StoredChunk {
    return {
      id: new Uint8Array(chunkId(this.#columns, index)),
      key: new Uint8Array(chunkKey(this.#columns, index)),
      pages: this.#columns.pages[index]!,
      sealed: this.#places.at(index),
    }
  }
}
