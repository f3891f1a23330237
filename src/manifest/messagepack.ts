/**
 * The subset of MessagePack that manifests are made of: maps from small integers, strings, byte strings, unsigned integers, arrays (docs/FORMAT.md section 6).
 *
 * msgpackr does the coding. What it accepts is far wider (records, extensions, references, structured clones), and manifests are decoded before they are
 * authenticated, so a walk over the bytes refuses everything else first, and bounds depth and item count.
 */
import { Packr } from 'msgpackr/pack'
import { Unpackr } from 'msgpackr/unpack'

export type Value = number | string | Uint8Array | readonly Value[]

const DEPTH_MAX = 4
/** Labels, images and segments at their limits: 4,096 segments of four items are the most. */
const ITEMS_MAX = 65_536

const UINT64 = 0xcf
/** Only for values from 0 on: the top bit would make it too large. */
const INT64 = 0xd3

const packr = new Packr({ useRecords: false, mapsAsObjects: false, int64AsType: 'number', variableMapSize: true })
const unpackr = new Unpackr({ useRecords: false, mapsAsObjects: false, int64AsType: 'number' })

export function encodeMap(map: ReadonlyMap<number, Value>): Uint8Array {
  return packr.pack(new Map(Array.from(map, ([key, value]) => [key, withWideIntegers(value)])))
}

/** msgpackr writes numbers from 2³² on as floats, and bigints as the integers they are. */
function withWideIntegers(value: Value): unknown {
  if (typeof value === 'number') return value < 2 ** 32 ? value : BigInt(value)
  return Array.isArray(value) ? value.map(withWideIntegers) : value
}

/** @throws RangeError, with what is wrong, for anything outside the subset. */
export function decodeMap(bytes: Uint8Array): Map<number, Value> {
  const walk = new Walk(bytes)
  walk.map()
  if (walk.at !== bytes.length) throw new RangeError('bytes behind the map')
  return unpackr.unpack(bytes) as Map<number, Value>
}

class Walk {
  at = 0
  #items = 0
  readonly #view: DataView

  constructor(bytes: Uint8Array) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  }

  map(): void {
    const tag = this.#uint(1)
    const count = (tag & 0xf0) === 0x80 ? tag & 0x0f : tag === 0xde ? this.#uint(2) : tag === 0xdf ? this.#uint(4) : -1
    if (count < 0) throw new RangeError('not a map')
    let previous = -1
    for (let i = 0; i < count; i++) {
      const key = this.#unsigned(this.#uint(1))
      if (key === undefined || key <= previous) throw new RangeError('map keys are not ascending integers')
      previous = key
      this.#value(2)
    }
  }

  #value(depth: number): void {
    if (++this.#items > ITEMS_MAX) throw new RangeError('too many items')
    const tag = this.#uint(1)
    const bytes = this.#lengthOfBytes(tag)
    if (bytes !== undefined) {
      this.#skip(bytes)
      return
    }
    const items = (tag & 0xf0) === 0x90 ? tag & 0x0f : tag === 0xdc ? this.#uint(2) : tag === 0xdd ? this.#uint(4) : undefined
    if (items === undefined) {
      if (this.#unsigned(tag) === undefined) throw new RangeError(`tag ${tag} is not allowed`)
      return
    }
    if (depth >= DEPTH_MAX) throw new RangeError('nested too deeply')
    for (let i = 0; i < items; i++) this.#value(depth + 1)
  }

  /** Length of a str or bin with this tag; undefined if it is neither. */
  #lengthOfBytes(tag: number): number | undefined {
    if ((tag & 0xe0) === 0xa0) return tag & 0x1f
    if (tag === 0xd9 || tag === 0xc4) return this.#uint(1)
    if (tag === 0xda || tag === 0xc5) return this.#uint(2)
    if (tag === 0xdb || tag === 0xc6) return this.#uint(4)
    return undefined
  }

  /** The unsigned integer with this tag; undefined if it is something else. */
  #unsigned(tag: number): number | undefined {
    if (tag < 0x80) return tag
    if (tag === 0xcc) return this.#uint(1)
    if (tag === 0xcd) return this.#uint(2)
    if (tag === 0xce) return this.#uint(4)
    if (tag === UINT64 || tag === INT64) return this.#uint64()
    return undefined
  }

  #uint64(): number {
    const value = this.#uint(4) * 2 ** 32 + this.#uint(4)
    if (!Number.isSafeInteger(value)) throw new RangeError('integer too large')
    return value
  }

  #uint(bytes: 1 | 2 | 4): number {
    this.#skip(bytes)
    const at = this.at - bytes
    return bytes === 1 ? this.#view.getUint8(at) : bytes === 2 ? this.#view.getUint16(at) : this.#view.getUint32(at)
  }

  #skip(bytes: number): void {
    this.at += bytes
    if (this.at > this.#view.byteLength) throw new RangeError('cut short')
  }
}
