/**
 * The chunk table of a snapshot in the making: the parent's chunks, then the new ones, each stored once as soon as it is sealed.
 *
 * Indices are given out before anything is sealed, so that page maps can be built meanwhile: [0, n) are the parent's n chunks, the rest new ones. `finish` drops what no
 * map uses and what turned out to be the same chunk twice.
 */
import { ThawError } from '../errors.ts'
import { chunkKey } from '../layout.ts'
import { type Manifest, type Segment, segmentOfChunks } from '../manifest.ts'
import type { SealedPages } from '../seal/tasks.ts'
import type { CallOptions } from '../store.ts'
import type { Slot } from '../util/slab.ts'
import { type Destination, Presence } from './presence.ts'
import type { Primer } from './primer.ts'
import type { PushCounts } from './progress.ts'

interface OwnChunk {
  readonly id: string
  readonly key: Uint8Array
  readonly sealedBytes: number
  readonly pages: number
}

/** The finished table, and what became of each index. */
export interface ChunkTable {
  readonly segments: readonly Segment[]
  readonly ids: Uint8Array
  readonly keys: Uint8Array
  readonly pages: Uint8Array
  readonly sealedBytes: Uint32Array
  /** New index by old index, −1 for chunks that are not used. */
  readonly indexOf: Int32Array
}

export class ChunkWriter {
  readonly #destination: Destination
  readonly #presence: Presence
  readonly #parent: Manifest | undefined
  readonly #parentId: string | undefined
  readonly #counts: PushCounts
  readonly #primer: Primer | undefined
  readonly #inherited: number
  readonly #own: (OwnChunk | undefined)[] = []
  readonly #stored = new Map<string, Promise<void>>()

  constructor(
    destination: Destination,
    parent: { readonly id: string; readonly manifest: Manifest } | undefined,
    counts: PushCounts,
    primer: Primer | undefined,
  ) {
    this.#destination = destination
    this.#presence = new Presence(destination)
    this.#parent = parent?.manifest
    this.#parentId = parent?.id
    this.#inherited = parent?.manifest.pages.length ?? 0
    this.#counts = counts
    this.#primer = primer
  }

  /** An index for a chunk that `write` will be told of. */
  reserve(): number {
    return this.#inherited + this.#own.push(undefined) - 1
  }

  /** Stores the sealed chunk at the front of the slot, unless it is there. The slot is free again when this settles. */
  async write(index: number, chunk: SealedPages, slot: Slot, options: CallOptions): Promise<void> {
    const id = Buffer.from(chunk.id).toString('hex')
    this.#own[index - this.#inherited] = { id, key: chunk.key, sealedBytes: chunk.sizeBytes, pages: chunk.pages }
    const known = this.#stored.get(id)
    if (known !== undefined) return known
    const stored = this.#store(id, chunk, slot, options)
    this.#stored.set(id, stored)
    return stored
  }

  async #store(id: string, chunk: SealedPages, slot: Slot, options: CallOptions): Promise<void> {
    // Both hold the slot, so both are waited for, whatever becomes of the other.
    const primed = this.#primer?.chunk(id, slot.bytes.subarray(0, chunk.sizeBytes))
    try {
      await this.#storeUnlessThere(id, chunk, slot, options)
    } finally {
      await primed
    }
  }

  async #storeUnlessThere(id: string, chunk: SealedPages, slot: Slot, options: CallOptions): Promise<void> {
    if (await this.#presence.has(id, chunk, options)) {
      this.#counts.foundBytes += chunk.sizeBytes
      this.#counts.foundChunks++
      return
    }
    const { objects, root, domain } = this.#destination
    await objects.put(chunkKey(root, domain, id), slot.bytes.subarray(0, chunk.sizeBytes), { ...options, sha256: chunk.id })
    this.#counts.storedBytes += chunk.sizeBytes
    this.#counts.storedChunks++
  }

  /** @param used which indices the page maps use. */
  finish(used: Uint8Array, layer: Segment['layer']): ChunkTable {
    const table = new TableBuilder(used.length)
    const parent = this.#parent
    if (parent !== undefined) {
      const segmentOf = segmentOfChunks(parent)
      const key = (bytes: Uint8Array, index: number): Uint8Array => bytes.subarray(index * 32, index * 32 + 32)
      for (let index = 0; index < this.#inherited; index++) {
        if (used[index] !== 1) continue
        const segment = parent.segments[segmentOf[index]!]!
        const id = Buffer.from(key(parent.ids, index)).toString('hex')
        const chunk = { id, key: key(parent.keys, index), sealedBytes: parent.sealedBytes[index]!, pages: parent.pages[index]! }
        table.add(index, chunk, { ...segment, origin: segment.origin ?? this.#parentId })
      }
    }
    const domain = this.#destination.domain
    this.#own.forEach((chunk, own) => {
      const index = this.#inherited + own
      if (used[index] !== 1) return
      if (chunk === undefined) throw new ThawError('CLOSED', 'a chunk was not sealed')
      table.add(index, chunk, { origin: undefined, layer, domain })
    })
    return table.build()
  }
}

class TableBuilder {
  readonly #indexOf: Int32Array
  readonly #byId = new Map<string, number>()
  readonly #chunks: OwnChunk[] = []
  readonly #segments: { origin: string | undefined; layer: Segment['layer']; domain: string; count: number }[] = []

  constructor(indices: number) {
    this.#indexOf = new Int32Array(indices).fill(-1)
  }

  add(index: number, chunk: OwnChunk, from: Omit<Segment, 'count'>): void {
    const twin = this.#byId.get(chunk.id)
    if (twin !== undefined) {
      this.#indexOf[index] = twin
      return
    }
    this.#byId.set(chunk.id, this.#chunks.length)
    this.#indexOf[index] = this.#chunks.push(chunk) - 1
    const last = this.#segments.at(-1)
    if (last?.origin === from.origin && last?.layer === from.layer && last?.domain === from.domain && last !== undefined) last.count++
    else this.#segments.push({ ...from, count: 1 })
  }

  build(): ChunkTable {
    const count = this.#chunks.length
    const table = {
      segments: this.#segments,
      ids: Buffer.alloc(count * 32),
      keys: Buffer.alloc(count * 32),
      pages: new Uint8Array(count),
      sealedBytes: new Uint32Array(count),
      indexOf: this.#indexOf,
    }
    this.#chunks.forEach((chunk, at) => {
      table.ids.write(chunk.id, at * 32, 'hex')
      table.keys.set(chunk.key, at * 32)
      table.pages[at] = chunk.pages
      table.sealedBytes[at] = chunk.sealedBytes
    })
    return table
  }
}
