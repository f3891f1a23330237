/** Checked access to decoded MessagePack values. Everything throws RangeError: decode.ts turns it into the one error of the manifest. */
import { OPTIONAL_KEYS_FROM } from './fields.ts'
import { decodeMap, type Value } from './messagepack.ts'

export function fail(what: string): never {
  throw new RangeError(what)
}

/** The fields of one part of a manifest. */
export class Fields {
  readonly #values: Map<number, Value>

  /** Refuses keys below 128 that are not among `known`. */
  constructor(bytes: Uint8Array, known: Readonly<Record<string, number>>) {
    this.#values = decodeMap(bytes)
    const names = new Set(Object.values(known))
    for (const key of this.#values.keys()) if (key < OPTIONAL_KEYS_FROM && !names.has(key)) fail(`field ${key} is not one this build knows`)
  }

  required(key: number): Value {
    return this.#values.get(key) ?? fail(`field ${key} is missing`)
  }

  optional(key: number): Value | undefined {
    return this.#values.get(key)
  }
}

export function unsigned(value: unknown): number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 ? value : fail('not an unsigned integer')
}

/** An integer in [0, end). */
export function uintBelow(value: unknown, end: number): number {
  const number = unsigned(value)
  return number < end ? number : fail(`${number} where less than ${end} is possible`)
}

export function text(value: unknown): string {
  return typeof value === 'string' ? value : fail('not a string')
}

export function bytesOf(value: unknown): Uint8Array {
  return value instanceof Uint8Array ? value : fail('not a byte string')
}

/** An array of at least `least` and at most `most` items. */
export function items(value: unknown, most: number, least = 0): readonly unknown[] {
  if (!Array.isArray(value) || value.length > most || value.length < least) return fail('not an array of the right length')
  return value
}
