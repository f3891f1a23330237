/**
 * Bytes as text, one text for each bytes: lower-case hex, and standard base64 with padding. What another encoder might also accept (upper
 * case, missing padding, stray bits) is not decoded, so that a document has one form only and its hash means something.
 *
 * Decoded bytes own their memory: Node's `Buffer.from(text)` lends a slice of a shared pool, and posting such a slice to another thread
 * would carry the pool, with other secrets in it, along.
 */
import { Buffer } from 'node:buffer'

export function toHex(bytes: Uint8Array): string {
  return view(bytes).toString('hex')
}

/** The bytes, or undefined if this is not lower-case hex of whole bytes. */
export function fromHex(text: string): Uint8Array | undefined {
  return /^(?:[0-9a-f]{2})*$/.test(text) ? Uint8Array.from(Buffer.from(text, 'hex')) : undefined
}

export function toBase64(bytes: Uint8Array): string {
  return view(bytes).toString('base64')
}

/** The bytes, or undefined if this is not the base64 that `toBase64` gives for them. */
export function fromBase64(text: string): Uint8Array | undefined {
  const bytes = Uint8Array.from(Buffer.from(text, 'base64'))
  return toBase64(bytes) === text ? bytes : undefined
}

function view(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
