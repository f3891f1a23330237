/** Bytes, hex, base64 and UTF-8, each decoded strictly: what does not come back as it was is refused. */
import { FormatError } from './errors.ts'

export const PAGE = 4096
export const RANGE = 512 * 1024

export function join(...parts: Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    out.set(part, at)
    at += part.length
  }
  return out
}

export function equal(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i])
}

export function allZero(bytes: Uint8Array): boolean {
  return bytes.every(byte => byte === 0)
}

export function u32(value: number): Uint8Array {
  const out = new Uint8Array(4)
  new DataView(out.buffer).setUint32(0, value, true)
  return out
}

export function readU32(bytes: Uint8Array, at: number): number {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(at, true)
}

export function ascii(text: string): Uint8Array {
  return new TextEncoder().encode(text)
}

export function utf8(bytes: Uint8Array): string {
  try {
    // ignoreBOM keeps a byte order mark as a character, so that it cannot vanish unseen.
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    throw new FormatError('BAD_FORMAT', 'text is not UTF-8')
  }
}

export function hex(bytes: Uint8Array): string {
  return Array.from(bytes, byte => byte.toString(16).padStart(2, '0')).join('')
}

export function isHex(text: string, digits: number): boolean {
  return text.length === digits && /^[0-9a-f]*$/.test(text)
}

export function fromHex(text: string): Uint8Array {
  if (text.length % 2 !== 0 || !isHex(text, text.length)) throw new FormatError('BAD_FORMAT', 'not lower case hex')
  return Uint8Array.from({ length: text.length / 2 }, (_, i) => Number.parseInt(text.slice(2 * i, 2 * i + 2), 16))
}

export function fromBase64(text: string): Uint8Array {
  const bytes = Buffer.from(text, 'base64')
  // Node's decoder is lenient (URL alphabet, missing padding, stray bits), hence the way back.
  if (bytes.toString('base64') !== text) throw new FormatError('BAD_FORMAT', 'not canonical base64')
  return new Uint8Array(bytes)
}
