/**
 * The small JSON documents of a store (docs/FORMAT.md section 2): one line, members in a fixed order, no white space, a checksum at the end.
 *
 * A document has exactly one form. A reader takes what it knows from the parsed members, writes that again, and refuses the document
 * unless both are equal byte for byte. That one comparison refuses unknown, missing-in-order and repeated members, white space, numbers
 * and strings written another way, so no schema has to.
 *
 * Checks are by hand, not by a validation library: the documents are few and flat, and every command of the CLI pays for what is imported
 * here. Messages name members, never show values: the keyring file is read with the same `Members`.
 */
import { Buffer } from 'node:buffer'
import { createHash } from 'node:crypto'
import { ThawError } from './errors.ts'
import type { CallOptions, ObjectStore } from './store.ts'
import { fromBase64, fromHex } from './util/encoding.ts'

/** 64 KiB. The largest document in use, wrapped keys, has 150 bytes a key. */
export const DOCUMENT_BYTES_MAX: number = 64 * 1024

const CHECKSUM_START = ',"sha256":"'
const CHECKSUM_END = '"}\n'
const CHECKSUM_CHARS = CHECKSUM_START.length + 64 + CHECKSUM_END.length

export type JsonValue = string | number | boolean | null | readonly JsonValue[] | { readonly [member: string]: JsonValue }

/** How one kind of document is written and read. `encode` gives the members in the order of the format. */
export interface DocumentSchema<T> {
  readonly encode: (value: T) => JsonValue
  readonly decode: (members: Members) => T
}

/** The line, with its checksum. RangeError if it would be larger than a reader accepts. */
export function encodeDocument<T>(schema: DocumentSchema<T>, value: T): Uint8Array {
  const body = JSON.stringify(schema.encode(value))
  return bounded(`${body.slice(0, -1)}${CHECKSUM_START}${sha256(body)}${CHECKSUM_END}`)
}

/** Reads a document with a checksum; `object` names it in errors. CORRUPT: the checksum differs. BAD_FORMAT: all else. */
export function decodeDocument<T>(schema: DocumentSchema<T>, bytes: Uint8Array, object: string): T {
  const text = textOf(bytes, object)
  const body = `${text.slice(0, -CHECKSUM_CHARS)}}`
  const checksum = text.slice(-CHECKSUM_CHARS)
  if (!checksum.startsWith(CHECKSUM_START) || !checksum.endsWith(CHECKSUM_END)) {
    throw new ThawError('BAD_FORMAT', `${object} is not a document of thaw, or was cut short: it does not end in its checksum`, { object })
  }
  if (checksum !== `${CHECKSUM_START}${sha256(body)}${CHECKSUM_END}`) {
    throw new ThawError('CORRUPT', `${object} is damaged: its checksum differs`, { object, tier: 'origin' })
  }
  const value = schema.decode(parseMembers(body, object))
  return reproduced(value, encodeDocument(schema, value), bytes, object)
}

/** A line without a checksum: tag entries, which are signed. */
export function encodeLine<T>(schema: DocumentSchema<T>, value: T): Uint8Array {
  return bounded(`${JSON.stringify(schema.encode(value))}\n`)
}

/** Reads a line without a checksum. BAD_FORMAT as for documents. */
export function decodeLine<T>(schema: DocumentSchema<T>, bytes: Uint8Array, object: string): T {
  const value = schema.decode(parseMembers(textOf(bytes, object), object))
  return reproduced(value, encodeLine(schema, value), bytes, object)
}

/** The document under a key of a store. NOT_FOUND if there is none. */
export async function readDocument<T>(store: ObjectStore, key: string, schema: DocumentSchema<T>, options: CallOptions = {}): Promise<T> {
  const bytes = await store.get(key, { signal: options.signal, sizeMax: DOCUMENT_BYTES_MAX })
  return decodeDocument(schema, bytes, key)
}

/** A time, in milliseconds since 1970, as documents have it: RFC 3339, UTC, with milliseconds. */
export function timestamp(ms: number = Date.now()): string {
  return new Date(ms).toISOString()
}

/** Parses JSON whose outermost value is an object. BAD_FORMAT, without the text in the message, if it is anything else. */
export function parseMembers(text: string, object: string): Members {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    // The parser's own error quotes the text, and the text of a keyring must not reach a log.
    throw new ThawError('BAD_FORMAT', `${object} is not JSON`, { object })
  }
  return new Members(value, object, '')
}

/** The members of one JSON object, read by name with their checks. Each method is BAD_FORMAT if the member is missing or of another kind. */
export class Members {
  readonly #members: Readonly<Record<string, unknown>>
  readonly #object: string
  readonly #path: string

  constructor(value: unknown, object: string, path: string) {
    this.#object = object
    this.#path = path
    if (typeof value !== 'object' || value === null || Array.isArray(value)) this.refuse(`${path || 'it'} is not a JSON object`)
    this.#members = value as Readonly<Record<string, unknown>>
  }

  /** The format version; every document starts with one. */
  version(known: number): void {
    if (this.#get('version') !== known) this.refuse(`its version is not ${known}: it is damaged, or a newer thaw is needed to read it`)
  }

  text(name: string, pattern: RegExp): string {
    const value = this.#string(name)
    return pattern.test(value) ? value : this.#refuseMember(name)
  }

  textOrNull(name: string, pattern: RegExp): string | undefined {
    return this.#get(name) === null ? undefined : this.text(name, pattern)
  }

  oneOf<T extends string>(name: string, values: readonly T[]): T {
    return values.find(value => value === this.#get(name)) ?? this.#refuseMember(name)
  }

  boolean(name: string): boolean {
    const value = this.#get(name)
    return typeof value === 'boolean' ? value : this.#refuseMember(name)
  }

  /** An integer of min ≤ value ≤ max. */
  integer(name: string, min: number, max: number): number {
    const value = this.#get(name)
    return typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max ? value : this.#refuseMember(name)
  }

  /** Bytes as lower-case hex. */
  hex(name: string, byteCount: number): Uint8Array {
    return this.#bytes(name, fromHex(this.#string(name)), byteCount)
  }

  hexOrNull(name: string, byteCount: number): Uint8Array | undefined {
    return this.#get(name) === null ? undefined : this.hex(name, byteCount)
  }

  base64(name: string, byteCount: number): Uint8Array {
    return this.#bytes(name, fromBase64(this.#string(name)), byteCount)
  }

  /** RFC 3339 as `timestamp` writes it. */
  time(name: string): string {
    const value = this.text(name, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/)
    const ms = Date.parse(value)
    return Number.isNaN(ms) || timestamp(ms) !== value ? this.#refuseMember(name) : value
  }

  object(name: string): Members {
    return new Members(this.#get(name), this.#object, this.#pathOf(name))
  }

  /** An array of objects. */
  list(name: string): Members[] {
    const value = this.#get(name)
    if (!Array.isArray(value)) return this.#refuseMember(name)
    return value.map((item, index) => new Members(item, this.#object, `${this.#pathOf(name)}[${index}]`))
  }

  /** The names of an object used as a map, each of which must match. */
  names(pattern: RegExp): string[] {
    const names = Object.keys(this.#members)
    if (names.some(name => !pattern.test(name))) this.refuse(`${this.#path || 'it'} has a name that is not allowed there`)
    return names
  }

  refuse(why: string): never {
    throw new ThawError('BAD_FORMAT', `${this.#object} cannot be used: ${why}`, { object: this.#object })
  }

  #get(name: string): unknown {
    return this.#members[name]
  }

  #string(name: string): string {
    const value = this.#get(name)
    return typeof value === 'string' ? value : this.#refuseMember(name)
  }

  #bytes(name: string, bytes: Uint8Array | undefined, byteCount: number): Uint8Array {
    return bytes?.length === byteCount ? bytes : this.#refuseMember(name)
  }

  #pathOf(name: string): string {
    return this.#path === '' ? name : `${this.#path}.${name}`
  }

  #refuseMember(name: string): never {
    this.refuse(`${this.#pathOf(name)} is missing or not what the format allows`)
  }
}

function bounded(line: string): Uint8Array {
  const bytes = Buffer.from(line)
  if (bytes.length > DOCUMENT_BYTES_MAX) throw new RangeError(`a document of ${bytes.length} bytes is larger than ${DOCUMENT_BYTES_MAX}`)
  return bytes
}

function textOf(bytes: Uint8Array, object: string): string {
  if (bytes.length > DOCUMENT_BYTES_MAX) {
    throw new ThawError('BAD_FORMAT', `${object} has ${bytes.length} bytes, a document at most ${DOCUMENT_BYTES_MAX}`, { object })
  }
  // Invalid UTF-8 becomes U+FFFD here, which `reproduced` then finds to differ.
  return Buffer.from(bytes).toString('utf8')
}

function reproduced<T>(value: T, expected: Uint8Array, bytes: Uint8Array, object: string): T {
  if (Buffer.compare(expected, bytes) === 0) return value
  throw new ThawError('BAD_FORMAT', `${object} has members this version does not know, or is not in the one form the format allows`, {
    object,
  })
}

function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex')
}
