/**
 * What a disk cache holds, with sizes and in the order of use: accounting for whoever evicts. The
 * files are the truth: an entry that is not here is found all the same, and one that is here may be
 * gone.
 *
 * Entries are looked up in a Map for each folder of the cache. One Map of 400,000 stops the thread
 * for 20 to 50 ms whenever it is rehashed; a 256th of that takes nothing that is noticed.
 */
import { LeastRecentlyUsed } from '../util/eviction.ts'
import { BLOCK_BYTES, blocksOf, FOLDERS } from './disk-files.ts'

export class Catalog {
  /** Id → row, by folder. */
  readonly #rows: readonly Map<string, number>[] = Array.from({ length: FOLDERS }, () => new Map())
  readonly #ids: (string | undefined)[] = []
  readonly #free: number[] = []
  readonly #order = new LeastRecentlyUsed()
  /** What a row's file takes from the disk. */
  #blocks = new Uint32Array(64)
  /** The look at the folders in which a row was last seen, or added. */
  #seen = new Uint32Array(64)
  #look = 0
  #blocksInAll = 0
  #entries = 0

  get entries(): number {
    return this.#entries
  }

  /** What the entries take from the disk. */
  get bytes(): number {
    return this.#blocksInAll * BLOCK_BYTES
  }

  has(id: string): boolean {
    return this.#folderOf(id).has(id)
  }

  /** An entry as the most recently used one, new or not. */
  add(id: string, sizeBytes: number): void {
    const row = this.#folderOf(id).get(id) ?? this.#insert(id)
    const blocks = blocksOf(sizeBytes)
    this.#blocksInAll += blocks - this.#blocks[row]!
    this.#blocks[row] = blocks
    this.#seen[row] = this.#look
    this.#order.touched(row)
  }

  /** Makes an entry the most recently used one; whether it is known. */
  touch(id: string): boolean {
    const row = this.#folderOf(id).get(id)
    if (row !== undefined) this.#order.touched(row)
    return row !== undefined
  }

  drop(id: string): void {
    const row = this.#folderOf(id).get(id)
    if (row === undefined) return
    this.#folderOf(id).delete(id)
    this.#ids[row] = undefined
    this.#order.remove(row)
    this.#free.push(row)
    this.#blocksInAll -= this.#blocks[row]!
    this.#entries--
  }

  /** Takes the least recently used entry out. */
  dropOldest(): string | undefined {
    const row = this.#order.victim()
    const id = row === undefined ? undefined : this.#ids[row]
    if (id !== undefined) this.drop(id)
    return id
  }

  /** Ids and blocks, least recently used first, as they stand at the first step: what is dropped meanwhile may be missing. */
  *oldestFirst(): Generator<readonly [id: string, blocks: number]> {
    for (const row of this.#order.victimsFirst()) {
      const id = this.#ids[row]
      if (id !== undefined) yield [id, this.#blocks[row]!]
    }
  }

  /** Begins a look at the folders: see `saw` and `dropUnseen`. */
  beginLook(): void {
    this.#look++
  }

  /** A file of that name lies in its folder; whether it is known as an entry. */
  saw(id: string): boolean {
    const row = this.#folderOf(id).get(id)
    if (row !== undefined) this.#seen[row] = this.#look
    return row !== undefined
  }

  /** Drops what was known of a folder before this look began, and was not seen in it. */
  dropUnseen(folder: number): void {
    for (const [id, row] of this.#rows[folder]!) if (this.#seen[row] !== this.#look) this.drop(id)
  }

  /** Of any name; only ids are ever in a folder. */
  #folderOf(id: string): Map<string, number> {
    return this.#rows[folderNumber(id)] ?? this.#rows[0]!
  }

  /** An entry without a size. */
  #insert(id: string): number {
    const row = this.#free.pop() ?? this.#newRow()
    this.#folderOf(id).set(id, row)
    this.#ids[row] = id
    this.#blocks[row] = 0
    this.#entries++
    this.#order.insert(row)
    return row
  }

  #newRow(): number {
    const row = this.#ids.push(undefined) - 1
    if (row === this.#blocks.length) {
      const [blocks, seen] = [new Uint32Array(2 * row), new Uint32Array(2 * row)]
      blocks.set(this.#blocks)
      seen.set(this.#seen)
      this.#blocks = blocks
      this.#seen = seen
    }
    return row
  }
}

/** What its first two hex digits say, without making a string of them. */
function folderNumber(id: string): number {
  return 16 * digit(id.charCodeAt(0)) + digit(id.charCodeAt(1))
}

function digit(code: number): number {
  return code < 0x3a ? code - 0x30 : code - 0x61 + 10
}
