/**
 * Chunk numbers: what threads call a chunk, in place of its id and key. Open snapshots that share a
 * chunk share its number, and so its place in the arena.
 *
 * A chunk is its id *and* its key and page count. By the id alone, somebody who may read one snapshot
 * could make a manifest that names the id of another tenant's chunk with any key, and would be given
 * that chunk's pages as soon as the other tenant had it opened (docs/THREATS.md).
 *
 * The engine's thread has guests waiting, so nothing here takes long at a time: snapshots are held
 * and released in slices, and the table is a linear hash table (Litwin, "Linear hashing: a new tool
 * for file and table addressing", VLDB 1980), which grows by one bucket for each new number. It lies
 * in blocks that are never copied, without an object per chunk. The hash is keyed, because manifests
 * are made by tenants: nobody can choose chunks that share a bucket.
 *
 * A number whose last snapshot closed and whose chunk left the arena is used again, as late as
 * possible.
 */
import { randomFillSync } from 'node:crypto'
import { NUMBERS_MAX } from '../arena.ts'
import { ThawError } from '../errors.ts'
import type { Manifest } from '../manifest.ts'
import { SlicedWork } from '../util/sliced-work.ts'

const ID_BYTES = 32
const KEY_BYTES = 32
const IDENTITY_BYTES = ID_BYTES + KEY_BYTES + 1
const BLOCK_NUMBERS = 1024
/** Chunks held or released in one turn of the event loop: some 200 µs, 2 ms before the code is compiled. */
export const SLICE_CHUNKS = 128
const NONE = -1

/** What tells chunks apart: columns of a manifest. */
export type IdentityColumns = Pick<Manifest, 'ids' | 'keys' | 'pages'>

/** One chunk of such columns. */
interface Identity {
  readonly ids: Buffer
  readonly keys: Buffer
  readonly pages: Uint8Array
  index: number
}

/** Numbers that follow each other, and as many buckets of the table. */
class Block {
  /** id ‖ key ‖ pages of each number. */
  readonly identities: Buffer = Buffer.alloc(BLOCK_NUMBERS * IDENTITY_BYTES)
  readonly hashes: Uint32Array = new Uint32Array(BLOCK_NUMBERS)
  /** How many hold on to each number. */
  readonly holds: Uint32Array = new Uint32Array(BLOCK_NUMBERS)
  /** The first number of each bucket, or NONE. */
  readonly firsts: Int32Array = new Int32Array(BLOCK_NUMBERS).fill(NONE)
  /** The number behind each one, in its bucket or among those given back; or NONE. */
  readonly nexts: Int32Array = new Int32Array(BLOCK_NUMBERS).fill(NONE)
}

export class ChunkNumbers {
  readonly #work = new SlicedWork()
  readonly #hash = new KeyedHash()
  readonly #numbersMax: number
  readonly #blocks: Block[] = [new Block()]
  /** Numbers that were ever made; and buckets. */
  #made = 0
  /** 2ⁿ − 1, the least that is not below the last bucket. */
  #mask = 0
  #size = 0
  /** Numbers given back. */
  #oldest = NONE
  #newest = NONE
  /** Releases under way. */
  #releasing = 0

  /** @param numbersMax how many chunks can have a number at a time */
  constructor(numbersMax: number = NUMBERS_MAX) {
    this.#numbersMax = numbersMax
  }

  /** Chunks that have a number. */
  get size(): number {
    return this.#size
  }

  /**
   * The numbers of all chunks of a table, each held once more. The columns are read until this settles.
   * @throws NO_SPACE if there are more chunks than numbers, or the signal's reason; then none is held
   */
  async hold(chunks: IdentityColumns, signal?: AbortSignal): Promise<Uint32Array> {
    const { pages } = chunks
    const identity = { ids: bufferOf(chunks.ids), keys: bufferOf(chunks.keys), pages, index: 0 }
    const numbers = new Uint32Array(new SharedArrayBuffer(pages.length * Uint32Array.BYTES_PER_ELEMENT))
    try {
      await this.#work.run(() => {
        signal?.throwIfAborted()
        return this.#holdSlice(identity, numbers)
      })
    } catch (error) {
      void this.release(numbers.subarray(0, identity.index))
      throw error
    }
    return numbers
  }

  /** @returns whether all are held. */
  #holdSlice(identity: Identity, numbers: Uint32Array): boolean {
    const end = Math.min(identity.index + SLICE_CHUNKS, numbers.length)
    for (; identity.index < end; identity.index++) {
      const number = this.#intern(identity)
      if (number === NONE && this.#releasing > 0) return false
      if (number === NONE) throw new ThawError('NO_SPACE', `open snapshots have more than ${this.#numbersMax} different chunks: close some`)
      numbers[identity.index] = number
      this.retain(number)
    }
    return end === numbers.length
  }

  /** Takes back one hold of each. Settles when all are. `numbers` is read until then. */
  async release(numbers: Uint32Array): Promise<void> {
    let at = 0
    this.#releasing++
    await this.#work.run(() => {
      for (const end = Math.min(at + SLICE_CHUNKS, numbers.length); at < end; at++) this.drop(numbers[at]!)
      return at === numbers.length
    })
    this.#releasing--
  }

  /** Keeps a number that somebody holds: for the time its chunk is in the arena or on its way. */
  retain(number: number): void {
    this.#block(number).holds[number % BLOCK_NUMBERS]!++
  }

  /** Takes back one hold. A number of which none is left gets free. */
  drop(number: number): void {
    if (--this.#block(number).holds[number % BLOCK_NUMBERS]! === 0) this.#free(number)
  }

  #block(number: number): Block {
    return this.#blocks[Math.floor(number / BLOCK_NUMBERS)]!
  }

  /** The number of a chunk; or NONE: it has none, and there is none for it. */
  #intern(identity: Identity): number {
    const hash = this.#hash.of(identity)
    for (let number = this.#first(this.#bucketOf(hash)); number !== NONE; number = this.#next(number)) {
      if (this.#is(number, hash, identity)) return number
    }
    const number = this.#takeNumber()
    if (number === NONE) return NONE
    const { identities, hashes } = this.#block(number)
    const at = number % BLOCK_NUMBERS
    const { ids, keys, pages, index } = identity
    const to = at * IDENTITY_BYTES
    ids.copy(identities, to, index * ID_BYTES, (index + 1) * ID_BYTES)
    keys.copy(identities, to + ID_BYTES, index * KEY_BYTES, (index + 1) * KEY_BYTES)
    identities[to + ID_BYTES + KEY_BYTES] = pages[index]!
    hashes[at] = hash
    this.#link(number, this.#bucketOf(hash))
    this.#size++
    return number
  }

  #is(number: number, hash: number, { ids, keys, pages, index }: Identity): boolean {
    const { identities, hashes } = this.#block(number)
    const at = number % BLOCK_NUMBERS
    if (hashes[at] !== hash) return false
    const idAt = at * IDENTITY_BYTES
    const keyAt = idAt + ID_BYTES
    const pagesAt = keyAt + KEY_BYTES
    return (
      identities[pagesAt] === pages[index] &&
      ids.compare(identities, idAt, keyAt, index * ID_BYTES, (index + 1) * ID_BYTES) === 0 &&
      keys.compare(identities, keyAt, pagesAt, index * KEY_BYTES, (index + 1) * KEY_BYTES) === 0
    )
  }

  #takeNumber(): number {
    if (this.#made === this.#blocks.length * BLOCK_NUMBERS || this.#made === this.#numbersMax) {
      if (this.#oldest !== NONE) return this.#takeOldest()
      if (this.#made === this.#numbersMax) return NONE
      this.#blocks.push(new Block())
    }
    const number = this.#made++
    this.#addBucket(number)
    return number
  }

  #takeOldest(): number {
    const number = this.#oldest
    this.#oldest = this.#next(number)
    if (this.#oldest === NONE) this.#newest = NONE
    return number
  }

  #free(number: number): void {
    this.#unlink(number, this.#bucketOf(this.#block(number).hashes[number % BLOCK_NUMBERS]!))
    this.#setNext(number, NONE)
    if (this.#newest === NONE) this.#oldest = number
    else this.#setNext(this.#newest, number)
    this.#newest = number
    this.#size--
  }

  /** Gives a new bucket, the one behind the last, what it is to have of the bucket that had it so far. */
  #addBucket(bucket: number): void {
    if (bucket > this.#mask) this.#mask = 2 * this.#mask + 1
    if (bucket === 0) return
    const from = bucket & (this.#mask >>> 1)
    for (let number = this.#first(from), next: number; number !== NONE; number = next) {
      next = this.#next(number)
      if (this.#bucketOf(this.#block(number).hashes[number % BLOCK_NUMBERS]!) !== bucket) continue
      this.#unlink(number, from)
      this.#link(number, bucket)
    }
  }

  #bucketOf(hash: number): number {
    const bucket = hash & this.#mask
    return bucket < this.#made ? bucket : bucket & (this.#mask >>> 1)
  }

  #link(number: number, bucket: number): void {
    this.#setNext(number, this.#first(bucket))
    this.#block(bucket).firsts[bucket % BLOCK_NUMBERS] = number
  }

  #unlink(number: number, bucket: number): void {
    const behind = this.#next(number)
    if (this.#first(bucket) === number) {
      this.#block(bucket).firsts[bucket % BLOCK_NUMBERS] = behind
      return
    }
    let before = this.#first(bucket)
    while (this.#next(before) !== number) before = this.#next(before)
    this.#setNext(before, behind)
  }

  #first(bucket: number): number {
    return this.#block(bucket).firsts[bucket % BLOCK_NUMBERS]!
  }

  #next(number: number): number {
    return this.#block(number).nexts[number % BLOCK_NUMBERS]!
  }

  #setNext(number: number, next: number): void {
    this.#block(number).nexts[number % BLOCK_NUMBERS] = next
  }
}

/**
 * Multilinear hashing (Carter and Wegman, "Universal classes of hash functions", 1979) over all words
 * of a chunk's identity, with random factors; then MurmurHash3's finalizer, because the low bits of
 * the sum depend on nothing but low bits.
 */
class KeyedHash {
  readonly #factors: Uint32Array = randomFillSync(new Uint32Array(17)).map(factor => factor | 1)

  of({ ids, keys, pages, index }: Identity): number {
    const factors = this.#factors
    let sum = Math.imul(pages[index]!, factors[16]!)
    for (let word = 0; word < 8; word++) {
      sum = (sum + Math.imul(ids.readUInt32LE(index * ID_BYTES + 4 * word), factors[word]!)) | 0
      sum = (sum + Math.imul(keys.readUInt32LE(index * KEY_BYTES + 4 * word), factors[8 + word]!)) | 0
    }
    sum = Math.imul(sum ^ (sum >>> 16), 0x85ebca6b)
    sum = Math.imul(sum ^ (sum >>> 13), 0xc2b2ae35)
    return (sum ^ (sum >>> 16)) >>> 0
  }
}

function bufferOf({ buffer, byteOffset, byteLength }: Uint8Array): Buffer {
  return Buffer.from(buffer, byteOffset, byteLength)
}
