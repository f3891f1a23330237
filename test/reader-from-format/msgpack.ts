/**
 * The subset of MessagePack a manifest may use (FORMAT.md, section 6): at the top a map from unsigned integers; within it unsigned
 * integers, UTF-8 strings, byte strings and arrays. Every other type byte is refused, signed ones also where the value would not
 * be negative. An integer need not have its shortest form: the format does not ask for it.
 */
import { utf8 } from './bytes.ts'
import { FormatError } from './errors.ts'

export type Value = number | string | Uint8Array | Value[]

const MAX_LEVELS = 4

export function decodeMap(bytes: Uint8Array): Map<number, Value> {
  const cursor = new Cursor(bytes)
  const type = cursor.uint(1)
  let count: number
  if (type >= 0x80 && type <= 0x8f) count = type - 0x80
  else if (type === 0xde) count = cursor.uint(2)
  else if (type === 0xdf) count = cursor.uint(4)
  else throw new FormatError('BAD_FORMAT', 'MessagePack: not a map')

  const map = new Map<number, Value>()
  for (let i = 0; i < count; i++) {
    const key = decodeValue(cursor, 1)
    if (typeof key !== 'number') throw new FormatError('BAD_FORMAT', 'MessagePack: a key is not an unsigned integer')
    if (map.has(key)) throw new FormatError('BAD_FORMAT', `MessagePack: key ${key} is there twice`)
    map.set(key, decodeValue(cursor, 1))
  }
  if (cursor.left !== 0) throw new FormatError('BAD_FORMAT', 'MessagePack: bytes behind the map')
  return map
}

/** `level` is how many maps and arrays are open around the value. */
function decodeValue(cursor: Cursor, level: number): Value {
  const type = cursor.uint(1)
  if (type <= 0x7f) return type
  if (type >= 0x90 && type <= 0x9f) return decodeArray(cursor, type - 0x90, level + 1)
  if (type >= 0xa0 && type <= 0xbf) return utf8(cursor.take(type - 0xa0))
  switch (type) {
    case 0xc4:
      return cursor.take(cursor.uint(1))
    case 0xc5:
      return cursor.take(cursor.uint(2))
    case 0xc6:
      return cursor.take(cursor.uint(4))
    case 0xcc:
      return cursor.uint(1)
    case 0xcd:
      return cursor.uint(2)
    case 0xce:
      return cursor.uint(4)
    case 0xcf:
    // int 64: a negative one has its top bit set and is too large for `uint`.
    case 0xd3:
      return cursor.uint(8)
    case 0xd9:
      return utf8(cursor.take(cursor.uint(1)))
    case 0xda:
      return utf8(cursor.take(cursor.uint(2)))
    case 0xdb:
      return utf8(cursor.take(cursor.uint(4)))
    case 0xdc:
      return decodeArray(cursor, cursor.uint(2), level + 1)
    case 0xdd:
      return decodeArray(cursor, cursor.uint(4), level + 1)
    default:
      throw new FormatError('BAD_FORMAT', `MessagePack: type byte 0x${type.toString(16)} is not allowed here`)
  }
}

function decodeArray(cursor: Cursor, count: number, level: number): Value[] {
  if (level > MAX_LEVELS) throw new FormatError('BAD_FORMAT', `MessagePack: deeper than ${MAX_LEVELS} levels`)
  const values: Value[] = []
  for (let i = 0; i < count; i++) values.push(decodeValue(cursor, level))
  return values
}

class Cursor {
  readonly #bytes: Uint8Array
  #at = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
  }

  get left(): number {
    return this.#bytes.length - this.#at
  }

  take(length: number): Uint8Array {
    if (length > this.left) throw new FormatError('BAD_FORMAT', 'MessagePack: ends early')
    this.#at += length
    return this.#bytes.subarray(this.#at - length, this.#at)
  }

  /** MessagePack's own integers are big-endian, unlike those of the rest of the format. */
  uint(size: number): number {
    const value = this.take(size).reduce((sum, byte) => sum * 256n + BigInt(byte), 0n)
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new FormatError('BAD_FORMAT', 'MessagePack: an integer beyond 2^53 - 1')
    return Number(value)
  }
}
