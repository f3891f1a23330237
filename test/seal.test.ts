import { createCipheriv, randomBytes } from 'node:crypto'
import { zstdCompressSync } from 'node:zlib'
import { describe, expect, it } from 'vitest'
import { PAGE_BYTES, RANGE_BYTES } from '../src/chunk.ts'
import { decodePayload, encodePayload, OpenedChunk, SEALED_BYTES_MAX, sealPayload } from '../src/seal.ts'
import { codeOf } from './code-of.ts'

const SECRET = Buffer.alloc(32, 1)
const SALT = Buffer.alloc(32, 2)
const ID = Buffer.alloc(32)
const COMPRESSED = { compress: true, pad: false }

function seal(pages: Buffer, options = COMPRESSED): { sealed: Uint8Array; id: Uint8Array; key: Uint8Array } {
  const payload = new Uint8Array(SEALED_BYTES_MAX)
  const bytes = encodePayload(pages, pages.length / PAGE_BYTES, options, payload)
  const sealed = new Uint8Array(SEALED_BYTES_MAX)
  const { id, key, sizeBytes } = sealPayload(payload.subarray(0, bytes), SECRET, SALT, sealed)
  return { sealed: sealed.subarray(0, sizeBytes), id, key }
}

/** A payload by hand: codec, body length, body, what follows. */
function payloadOf(codec: number, length: number, body: Uint8Array, behind = new Uint8Array(0)): Buffer {
  const header = Buffer.alloc(5)
  header[0] = codec
  header.writeUInt32LE(length, 1)
  return Buffer.concat([header, body, behind])
}

const text = Buffer.alloc(3 * PAGE_BYTES, 'a page of text that compresses well. ')
const noise = randomBytes(RANGE_BYTES)

describe('sealing', () => {
  it.each([
    ['compressed', text, COMPRESSED],
    ['compressed, padded', text, { compress: true, pad: true }],
    ['never compressed', text, { compress: false, pad: false }],
    ['incompressible, 128 pages, padded', noise, { compress: true, pad: true }],
  ])('gives the pages back: %s', (_, pages, options) => {
    const { sealed, id, key } = seal(pages, options)
    if (options.pad) expect(sealed.length % PAGE_BYTES).toBe(0)
    const opened = OpenedChunk.open(sealed, { id, key, pages: pages.length / PAGE_BYTES }, Buffer.alloc(RANGE_BYTES))
    expect(Buffer.compare(opened.bytes, pages)).toBe(0)
  })

  it('names equal pages equally under one secret and salt, and differently under others', () => {
    const again = seal(text)
    expect(seal(text).id).toEqual(again.id)
    const payload = new Uint8Array(SEALED_BYTES_MAX)
    const bytes = payload.subarray(0, encodePayload(text, 3, COMPRESSED, payload))
    const other = (secret: Uint8Array, salt: Uint8Array): Uint8Array =>
      sealPayload(bytes, secret, salt, new Uint8Array(SEALED_BYTES_MAX)).id
    expect(other(SECRET, SALT)).toEqual(again.id)
    expect(other(Buffer.alloc(32, 3), SALT)).not.toEqual(again.id)
    expect(other(SECRET, Buffer.alloc(32, 3))).not.toEqual(again.id)
  })

  it('compresses only what gets a tenth smaller', () => {
    expect(seal(noise).sealed.length).toBe(5 + RANGE_BYTES)
    expect(seal(text).sealed.length).toBeLessThan(text.length / 10)
  })
})

describe('opening', () => {
  it('refuses bytes that are not those of the id, each of them', () => {
    const { sealed, id, key } = seal(text)
    for (let at = 0; at < sealed.length; at++) {
      const bad = Uint8Array.from(sealed)
      bad[at]! ^= 1
      expect(codeOf(() => OpenedChunk.open(bad, { id, key, pages: 3 }, Buffer.alloc(RANGE_BYTES)))).toBe('CORRUPT')
    }
    expect(codeOf(() => OpenedChunk.open(sealed.subarray(1), { id, key, pages: 3 }, Buffer.alloc(RANGE_BYTES)))).toBe('CORRUPT')
  })

  it('refuses a chunk under another key or page count', () => {
    const { sealed, id, key } = seal(text)
    expect(codeOf(() => OpenedChunk.open(sealed, { id, key: Buffer.alloc(32), pages: 3 }, Buffer.alloc(RANGE_BYTES)))).toBe('BAD_FORMAT')
    expect(codeOf(() => OpenedChunk.open(sealed, { id, key, pages: 2 }, Buffer.alloc(RANGE_BYTES)))).toBe('BAD_FORMAT')
    expect(codeOf(() => OpenedChunk.open(sealed, { id, key, pages: 4 }, Buffer.alloc(RANGE_BYTES)))).toBe('BAD_FORMAT')
  })

  const frame = zstdCompressSync(text)
  const skippable = Buffer.concat([Buffer.from('502a4d1804000000', 'hex'), Buffer.alloc(4)])
  it.each([
    ['an unknown codec', payloadOf(2, text.length, text)],
    ['a length beyond the payload', payloadOf(0, text.length + 1, text)],
    ['a raw body of the wrong length', payloadOf(0, text.length - 1, text, Buffer.alloc(0))],
    ['padding that is not zero', payloadOf(0, text.length, text, Buffer.from([0, 1]))],
    ['a page of padding', payloadOf(0, text.length, text, Buffer.alloc(PAGE_BYTES))],
    ['a frame cut short', payloadOf(1, frame.length - 1, frame.subarray(0, -1))],
    ['two frames', payloadOf(1, frame.length * 2, Buffer.concat([frame, frame]))],
    ['a skippable frame behind', payloadOf(1, frame.length + 12, Buffer.concat([frame, skippable]))],
    ['a skippable frame before', payloadOf(1, frame.length + 12, Buffer.concat([skippable, frame]))],
    ['a bomb', payloadOf(1, zstdCompressSync(Buffer.alloc(2 ** 26)).length, zstdCompressSync(Buffer.alloc(2 ** 26)))],
    ['no header', Buffer.alloc(4)],
  ])('refuses %s', (_, payload) => {
    expect(codeOf(() => decodePayload(payload, 3, ID))).toBe('BAD_FORMAT')
  })

  it('takes padding of less than a page', () => {
    expect(Buffer.compare(decodePayload(payloadOf(1, frame.length, frame, Buffer.alloc(4095)), 3, ID), text)).toBe(0)
  })

  it('decrypts by AES-256-CTR from block zero, whatever the pieces', () => {
    const { sealed, key } = seal(noise)
    const cipher = createCipheriv('aes-256-ctr', key, Buffer.alloc(16))
    expect(Buffer.compare(cipher.update(sealed), payloadOf(0, noise.length, noise))).toBe(0)
  })
})
