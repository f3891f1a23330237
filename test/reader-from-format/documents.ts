/** JSON documents of one line (FORMAT.md, section 2): what all of them share, and checks of their members. */
import { ascii, hex, isHex, utf8 } from './bytes.ts'
import { sha256 } from './crypto.ts'
import { FormatError, refuse } from './errors.ts'

export type Json = Record<string, unknown>

export interface Document {
  members: Json
  /** The text without the last member and without the newline: what that member, a hash or a signature, is over. */
  body: string
  last: string
}

const MAX_DOCUMENT = 64 * 1024

/** `names` are the members in their order; the last one is the document's hash or signature. */
function parse(bytes: Uint8Array, names: readonly string[], what: string): Document {
  refuse(bytes.length > MAX_DOCUMENT, `${what}: larger than 64 KiB`)
  const text = utf8(bytes)
  let parsed: unknown
  try {
    parsed = JSON.parse(text)
  } catch {
    throw new FormatError('BAD_FORMAT', `${what}: not JSON`)
  }
  const members = asObject(parsed, what)
  refuse(members.version !== 1, `${what}: of unknown version`)
  refuse(`${JSON.stringify(members)}\n` !== text, `${what}: not the bytes its content is written as`)
  refuse(JSON.stringify(Object.keys(members)) !== JSON.stringify(names), `${what}: other members than ${names.join(', ')}`)
  const lastName = names.at(-1) ?? ''
  const { [lastName]: last, ...rest } = members
  if (typeof last !== 'string') throw new FormatError('BAD_FORMAT', `${what}: ${lastName} is not a string`)
  return { members, body: JSON.stringify(rest), last }
}

export function parseSignedDocument(bytes: Uint8Array, names: readonly string[], what: string): Document {
  return parse(bytes, [...names, 'signature'], what)
}

export async function parseHashedDocument(bytes: Uint8Array, names: readonly string[], what: string): Promise<Json> {
  const { members, body, last } = parse(bytes, [...names, 'sha256'], what)
  if (hex(await sha256(ascii(body))) !== last) throw new FormatError('CORRUPT', `${what}: its sha256 is not that of its text`)
  return members
}

export function asObject(value: unknown, what: string): Json {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new FormatError('BAD_FORMAT', `${what}: not an object`)
  return { ...value }
}

export function asString(value: unknown, what: string): string {
  if (typeof value !== 'string') throw new FormatError('BAD_FORMAT', `${what}: not a string`)
  return value
}

export function asHex(value: unknown, digits: number, what: string): string {
  const text = asString(value, what)
  refuse(!isHex(text, digits), `${what}: not ${digits} digits of lower case hex`)
  return text
}

export function asNatural(value: unknown, what: string): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0)
    throw new FormatError('BAD_FORMAT', `${what}: not a natural number`)
  return value
}

export function asTime(value: unknown, what: string): string {
  const text = asString(value, what)
  const shape = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/
  refuse(!shape.test(text) || Number.isNaN(Date.parse(text)), `${what}: not a time as of RFC 3339`)
  return text
}
