/**
 * Erasure coding of one value: four data stripes and their XOR, of which any four give the value back.
 *
 * A stripe says itself which one it is and of how many bytes in all, so that it does not matter under which node it is found:
 *
 *     version u8 = 1 ‖ index u8 (0–3 data, 4 parity) ‖ zero u16 ‖ length of the value u32 LE ‖ body
 *
 * All bodies of a value have one length: a quarter of the value, rounded up to 8 bytes; what is missing at the value's end is zero. There is no checksum: who
 * reads compares the whole value with its id anyway.
 */
import { copyWhole } from '../util/copy.ts'

export const STRIPES = 5
export const STRIPES_NEEDED = 4
const PARITY = 4
const VERSION = 1
const HEADER_BYTES = 8

export interface Stripe {
  /** 0 to 3: data; 4: parity. */
  readonly index: number
  /** Length of the whole value in bytes. */
  readonly totalBytes: number
  /** A view of what was parsed. */
  readonly body: Uint8Array
}

/** The five stripes of a value, in memory of their own. */
export function split(value: Uint8Array): Buffer[] {
  const bodyBytes = bodyBytesOf(value.length)
  const stripes = Array.from({ length: STRIPES }, (_, index) => {
    const stripe = Buffer.alloc(HEADER_BYTES + bodyBytes)
    stripe[0] = VERSION
    stripe[1] = index
    stripe.writeUInt32LE(value.length, 4)
    return stripe
  })
  const parity = stripes[PARITY]!.subarray(HEADER_BYTES)
  for (const [index, stripe] of stripes.slice(0, PARITY).entries()) {
    stripe.set(value.subarray(index * bodyBytes, (index + 1) * bodyBytes), HEADER_BYTES)
    xorInto(parity, stripe.subarray(HEADER_BYTES))
  }
  return stripes
}

/** The stripe that these bytes are, or undefined if they are none. */
export function parseStripe(bytes: Buffer): Stripe | undefined {
  if (bytes.length < HEADER_BYTES || bytes[0] !== VERSION || bytes.readUInt16LE(2) !== 0) return undefined
  const index = bytes[1]!
  const totalBytes = bytes.readUInt32LE(4)
  if (index >= STRIPES || bytes.length !== HEADER_BYTES + bodyBytesOf(totalBytes)) return undefined
  return { index, totalBytes, body: bytes.subarray(HEADER_BYTES) }
}

/** Puts a value together at the start of `target`, from four stripes of it with different indexes. `target` has at least the value's length. */
export function join(stripes: readonly Stripe[], target: Uint8Array): void {
  const totalBytes = stripes[0]!.totalBytes
  const bodyBytes = bodyBytesOf(totalBytes)
  const placeOf = (index: number): Uint8Array =>
    target.subarray(Math.min(index * bodyBytes, totalBytes), Math.min((index + 1) * bodyBytes, totalBytes))
  for (const { index, body } of stripes) {
    if (index === PARITY) continue
    const place = placeOf(index)
    copyWhole(body.subarray(0, place.length), place)
  }
  const missing = [0, 1, 2, 3].find(index => stripes.every(stripe => stripe.index !== index))
  if (missing === undefined) return
  const place = placeOf(missing).fill(0)
  for (const { body } of stripes) xorInto(place, body)
}

function bodyBytesOf(totalBytes: number): number {
  return Math.ceil(totalBytes / PARITY / 8) * 8
}

/** XORs the first `target.length` bytes of `source` into `target`: by words where both lie so that they can. */
function xorInto(target: Uint8Array, source: Uint8Array): void {
  const aligned = target.byteOffset % 4 === 0 && source.byteOffset % 4 === 0
  const words = aligned ? target.length >> 2 : 0
  const to = new Uint32Array(target.buffer, aligned ? target.byteOffset : 0, words)
  const from = new Uint32Array(source.buffer, aligned ? source.byteOffset : 0, words)
  for (let word = 0; word < words; word++) to[word]! ^= from[word]!
  for (let at = words * 4; at < target.length; at++) target[at]! ^= source[at]!
}
