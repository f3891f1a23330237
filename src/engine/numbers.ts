/**
 * Chunk numbers: what threads call a chunk, in place of its id and key. Open snapshots that share a chunk share its number, and so its place in the arena.
 *
 * A chunk is its id *and* its key and page count. By the id alone, somebody who may read one snapshot could make a manifest that names the id of another
 * tenant's chunk with any key, and would be given that chunk's pages as soon as the other tenant had it opened (docs/THREATS.md).
 *
 * Columns and an open-addressed table of numbers, no object per chunk: ids are SHA-256, so their first bytes are hash enough. A number whose last snapshot
 * closed and whose chunk left the arena is used again, as late as possible.
 */
import { NUMBERS_MAX } from '../arena.ts'
import { ThawError } from '../errors.ts'
import type { Manifest } from '../manifest.ts'

const IDENTITY_BYTES = 65
const CAPACITY_MIN = 1024

/** What tells chunks apart: columns of a manifest. */
export type IdentityColumns = Pick<Manifest, 'ids' | 'keys' | 'pages'>

export class ChunkNumbers {
  /** Number + 1 by hash, linear probing; 0 is empty. Twice as long as there can be numbers. */
  #table = new Int32Array(2 * CAPACITY_MIN)
  /** id ‖ key ‖ pages of each number. */
  #identities = Buffer.alloc(CAPACITY_MIN * IDENTITY_BYTES)
  /** How many hold on to each number. */
  #holds = new Uint32Array(CAPACITY_MIN)
  /** Numbers given back, the oldest first. */
  readonly #given: number[] = []
  #givenFrom = 0
  #next = 0
  #size = 0
  readonly #probe = Buffer.alloc(IDENTITY_BYTES)

  /** Chunks that have a number. */
  get size(): number {
    return this.#size
  }

  /** The numbers of all chunks of a table, each held once more. @throws NO_SPACE beyond NUMBERS_MAX chunks; then none is held. */
  hold(chunks: IdentityColumns): Uint32Array {
    const count = chunks.pages.length
    const numbers = new Uint32Array(new SharedArrayBuffer(count * Uint32Array.BYTES_PER_ELEMENT))
    for (let index = 0; index < count; index++) {
      const number = this.#intern(chunks, index)
      if (number === undefined) {
        this.release(numbers.subarray(0, index))
        throw new ThawError('NO_SPACE', `open snapshots have more than ${NUMBERS_MAX} different chunks: close some`)
      }
      numbers[index] = number
      this.#holds[number]!++
    }
    return numbers
  }

  /** Takes back one hold of each. Those of which none is left get free. */
  release(numbers: Iterable<number>): void {
    for (const number of numbers) if (--this.#holds[number]! === 0) this.#free(number)
  }

  /** Keeps a number that somebody holds: for the time its chunk is in the arena or on its way. */
  retain(number: number): void {
    this.#holds[number]!++
  }

  #intern(chunks: IdentityColumns, index: number): number | undefined {
    this.#probe.set(chunks.ids.subarray(index * 32, index * 32 + 32), 0)
    this.#probe.set(chunks.keys.subarray(index * 32, index * 32 + 32), 32)
    this.#probe[64] = chunks.pages[index]!
    const at = this.#find()
    const found = this.#table[at]!
    return found > 0 ? found - 1 : this.#add(at)
  }

  /** Where in the table the probed chunk is, or belongs. */
  #find(): number {
    const mask = this.#table.length - 1
    let at = this.#probe.readUInt32LE(0) & mask
    for (let entry = this.#table[at]!; entry > 0; entry = this.#table[at]!) {
      const from = (entry - 1) * IDENTITY_BYTES
      if (this.#identities.compare(this.#probe, 0, IDENTITY_BYTES, from, from + IDENTITY_BYTES) === 0) return at
      at = (at + 1) & mask
    }
    return at
  }

  #add(at: number): number | undefined {
    const number = this.#takeNumber()
    if (number === undefined) return undefined
    const grown = number >= this.#holds.length
    if (grown) this.#grow()
    this.#identities.set(this.#probe, number * IDENTITY_BYTES)
    this.#table[grown ? this.#find() : at] = number + 1
    this.#size++
    return number
  }

  #takeNumber(): number | undefined {
    if (this.#next < this.#holds.length) return this.#next++
    if (this.#givenFrom < this.#given.length) {
      const number = this.#given[this.#givenFrom++]!
      if (this.#givenFrom > CAPACITY_MIN) {
        this.#given.splice(0, this.#givenFrom)
        this.#givenFrom = 0
      }
      return number
    }
    return this.#next < NUMBERS_MAX ? this.#next++ : undefined
  }

  #grow(): void {
    const capacity = this.#holds.length * 2
    const identities = Buffer.alloc(capacity * IDENTITY_BYTES)
    this.#identities.copy(identities)
    const holds = new Uint32Array(capacity)
    holds.set(this.#holds)
    const table = new Int32Array(capacity * 2)
    const mask = table.length - 1
    for (const entry of this.#table) {
      if (entry === 0) continue
      let at = identities.readUInt32LE((entry - 1) * IDENTITY_BYTES) & mask
      while (table[at] !== 0) at = (at + 1) & mask
      table[at] = entry
    }
    this.#identities = identities
    this.#holds = holds
    this.#table = table
  }

  #free(number: number): void {
    this.#identities.copy(this.#probe, 0, number * IDENTITY_BYTES, (number + 1) * IDENTITY_BYTES)
    this.#remove(this.#find())
    this.#given.push(number)
    this.#size--
  }

  /** Closes the gap that an entry leaves, so that probing needs no tombstones (Knuth, TAOCP 3, section 6.4, algorithm R). */
  #remove(gap: number): void {
    const mask = this.#table.length - 1
    for (let at = (gap + 1) & mask; this.#table[at] !== 0; at = (at + 1) & mask) {
      const home = this.#identities.readUInt32LE((this.#table[at]! - 1) * IDENTITY_BYTES) & mask
      // May it move back to the gap? Only if its home is not between the gap and where it is.
      if (((at - home) & mask) < ((at - gap) & mask)) continue
      this.#table[gap] = this.#table[at]!
      gap = at
    }
    this.#table[gap] = 0
  }
}
