/** Members of a decoded MessagePack map or array, taken by type. */
import { FormatError, refuse } from './errors.ts'
import type { Value } from './msgpack.ts'

export function number(value: Value | undefined, what: string): number {
  if (typeof value !== 'number') throw new FormatError('BAD_FORMAT', `${what}: not an unsigned integer`)
  return value
}

export function text(value: Value | undefined, what: string): string {
  if (typeof value !== 'string') throw new FormatError('BAD_FORMAT', `${what}: not a string`)
  return value
}

export function binary(value: Value | undefined, what: string, length?: number): Uint8Array {
  if (!(value instanceof Uint8Array)) throw new FormatError('BAD_FORMAT', `${what}: not a byte string`)
  refuse(length !== undefined && value.length !== length, `${what}: ${value.length} bytes, expected ${length}`)
  return value
}

export function array(value: Value | undefined, what: string, length?: number): Value[] {
  if (!Array.isArray(value)) throw new FormatError('BAD_FORMAT', `${what}: not an array`)
  refuse(length !== undefined && value.length !== length, `${what}: ${value.length} elements, expected ${length}`)
  return value
}

export function split(bytes: Uint8Array, size: number): Uint8Array[] {
  return Array.from({ length: bytes.length / size }, (_, i) => bytes.subarray(i * size, (i + 1) * size))
}

/** Keys from 128 on are room for later versions; below, an unknown key is one that must not be passed over. */
export function refuseUnknown(map: Map<number, Value>, last: number, what: string): void {
  for (const key of map.keys()) refuse(key < 1 || (key > last && key < 128), `${what}: unknown key ${key}`)
}
