/**
 * What a disk cache holds, with sizes and in the order of use: accounting for whoever evicts. The
 * files are the truth: an entry that is not here is found all the same, and one that is here may be
 * gone.
 *
 * Everything lies in typed arrays, 60 bytes an entry. With 400,000 ids as strings in a Map the
 * collector stopped the thread for 25 ms at a time, and so did the Map itself when it was rehashed. A
 * table for each folder of the cache grows in steps that nobody notices.
 */
import { LeastRecentlyUsed } from '../util/eviction.ts'
import { BLOCK_BYTES, blocksOf, FOLDERS } from './disk-files.ts'

const ID_BYTES = 32
const ID_WORDS = ID_BYTES / Uint32Array.BYTES_PER_ELEMENT
/** Of rows: their ids lie together. */
const SEGMENT_ROWS = 4096
const ROWS_FIRST = 64
const TABLE_FIRST = 16

/** Of an entry: 64 hex digits, or the 32 bytes they stand for. */
export type EntryId = string | Uint8Array

export interface CatalogEntry {
  readonly id: string
  /** What it takes from the disk. */
  readonly bytes: number
}

export class Catalog {
  /** By folder. */
  readonly #tables: readonly Table[]
  readonly #ids: Uint32Array[] = []
  readonly #free: number[] = []
  readonly #order = new LeastRecentlyUsed()
  /** What a row's file takes from the disk; 0: the row is free. */
  #blocks = new Uint32Array(ROWS_FIRST)
  /** The look at the folders in which a row was last seen, or added. */
  #seen = new Uint32Array(ROWS_FIRST)
  #rows = 0
  #look = 0
  #blocksInAll = 0
  #entries = 0
  /** The id that is asked for. */
  readonly #id = Buffer.alloc(ID_BYTES)
  readonly #words = new Uint32Array(this.#id.buffer, this.#id.byteOffset, ID_WORDS)

  constructor() {
    const hashOf = (row: number): number => this.#ids[Math.floor(row / SEGMENT_ROWS)]![(row % SEGMENT_ROWS) * ID_WORDS + 1]!
    this.#tables = Array.from({ length: FOLDERS }, () => new Table(hashOf))
  }

  get entries(): number {
    return this.#entries
  }

  /** What the entries take from the disk. */
  get bytes(): number {
    return this.#blocksInAll * BLOCK_BYTES
  }

  has(id: EntryId): boolean {
    return this.#find(id) !== undefined
  }

  /** An entry as the most recently used one, new or not; its row, for `touchRow`. */
  add(id: EntryId, sizeBytes: number): number {
    const row = this.#find(id) ?? this.#insert()
    const blocks = blocksOf(sizeBytes)
    this.#blocksInAll += blocks - this.#blocks[row]!
    this.#blocks[row] = blocks
    this.#seen[row] = this.#look
    this.#order.touched(row)
    return row
  }

  /** Makes an entry the most recently used one; whether it is known. */
  touch(id: EntryId): boolean {
    const row = this.#find(id)
    if (row !== undefined) this.#order.touched(row)
    return row !== undefined
  }

  /** The same of what has that row by now, if anything has. */
  touchRow(row: number): void {
    if (this.#blocks[row]! > 0) this.#order.touched(row)
  }

  drop(id: EntryId): void {
    const row = this.#find(id)
    if (row !== undefined) this.#remove(row)
  }

  /** Takes the least recently used entry out. */
  dropOldest(): CatalogEntry | undefined {
    const row = this.#order.victim()
    if (row === undefined) return undefined
    const entry = { id: Buffer.from(this.#idOf(row)).toString('hex'), bytes: this.#blocks[row]! * BLOCK_BYTES }
    this.#remove(row)
    return entry
  }

  /**
   * Calls `take` with the ids and blocks of what is in, least recently used first, as it stands at the first step; what is dropped meanwhile may be
   * missing. The id is good during the call.
   */
  *oldestFirst<T>(take: (id: Uint8Array, blocks: number) => T): Generator<T> {
    for (const row of this.#order.victimsFirst()) {
      const blocks = this.#blocks[row]!
      if (blocks > 0) yield take(this.#idOf(row), blocks)
    }
  }

  /** Begins a look at the folders: see `saw` and `dropUnseen`. */
  beginLook(): void {
    this.#look++
  }

  /** A file of that name lies in its folder; whether it is known as an entry. */
  saw(name: string): boolean {
    const row = this.#find(name)
    if (row !== undefined) this.#seen[row] = this.#look
    return row !== undefined
  }

  /** Drops what was known of a folder before this look began, and was not seen in it. */
  dropUnseen(folder: number): void {
    const unseen = this.#tables[folder]!.rows().filter(row => this.#seen[row] !== this.#look)
    for (const row of unseen) {
      this.#id.set(this.#idOf(row))
      this.#remove(row)
    }
  }

  /** Leaves the id in `#id`. Undefined also for what is no id. */
  #find(id: EntryId): number | undefined {
    if (typeof id !== 'string') this.#id.set(id)
    else if (id.length !== 2 * ID_BYTES || this.#id.write(id, 'hex') !== ID_BYTES) return undefined
    return this.#table.find(this.#words[1]!, row => this.#isId(row))
  }

  get #table(): Table {
    return this.#tables[this.#id[0]!]!
  }

  #isId(row: number): boolean {
    const [ids, from] = [this.#ids[Math.floor(row / SEGMENT_ROWS)]!, (row % SEGMENT_ROWS) * ID_WORDS]
    for (let word = 0; word < ID_WORDS; word++) if (ids[from + word] !== this.#words[word]) return false
    return true
  }

  #idOf(row: number): Uint8Array {
    return new Uint8Array(this.#ids[Math.floor(row / SEGMENT_ROWS)]!.buffer, (row % SEGMENT_ROWS) * ID_BYTES, ID_BYTES)
  }

  /** A row for `#id`, without a size. */
  #insert(): number {
    const row = this.#free.pop() ?? this.#newRow()
    this.#ids[Math.floor(row / SEGMENT_ROWS)]!.set(this.#words, (row % SEGMENT_ROWS) * ID_WORDS)
    this.#table.insert(row)
    this.#entries++
    this.#order.insert(row)
    return row
  }

  #remove(row: number): void {
    this.#tables[this.#idOf(row)[0]!]!.remove(row)
    this.#order.remove(row)
    this.#free.push(row)
    this.#blocksInAll -= this.#blocks[row]!
    this.#blocks[row] = 0
    this.#entries--
  }

  #newRow(): number {
    const row = this.#rows++
    if (row % SEGMENT_ROWS === 0) this.#ids.push(new Uint32Array(SEGMENT_ROWS * ID_WORDS))
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

/** Rows by the hash of their ids, which are hashes themselves: open addressing, probed one by one, at most half full. */
class Table {
  readonly #hashOf: (row: number) => number
  /** Row + 1; 0: empty. Its length is a power of two. */
  #cells = new Int32Array(TABLE_FIRST)
  #count = 0

  constructor(hashOf: (row: number) => number) {
    this.#hashOf = hashOf
  }

  find(hash: number, isIt: (row: number) => boolean): number | undefined {
    const mask = this.#cells.length - 1
    for (let cell = hash & mask; this.#cells[cell] !== 0; cell = (cell + 1) & mask) {
      const row = this.#cells[cell]! - 1
      if (isIt(row)) return row
    }
    return undefined
  }

  insert(row: number): void {
    if (2 * ++this.#count > this.#cells.length) {
      const rows = this.rows()
      this.#cells = new Int32Array(2 * this.#cells.length)
      for (const each of rows) this.#place(each)
    }
    this.#place(row)
  }

  /** Closes the gap: what was probed past it moves up. */
  remove(row: number): void {
    const mask = this.#cells.length - 1
    let gap = this.#hashOf(row) & mask
    while (this.#cells[gap] !== row + 1) gap = (gap + 1) & mask
    for (let cell = (gap + 1) & mask; this.#cells[cell] !== 0; cell = (cell + 1) & mask) {
      const home = this.#hashOf(this.#cells[cell]! - 1) & mask
      if (((cell - home) & mask) < ((cell - gap) & mask)) continue
      this.#cells[gap] = this.#cells[cell]!
      gap = cell
    }
    this.#cells[gap] = 0
    this.#count--
  }

  rows(): number[] {
    return [...this.#cells].filter(cell => cell !== 0).map(cell => cell - 1)
  }

  #place(row: number): void {
    const mask = this.#cells.length - 1
    let cell = this.#hashOf(row) & mask
    while (this.#cells[cell] !== 0) cell = (cell + 1) & mask
    this.#cells[cell] = row + 1
  }
}
