/**
 * Pages to sealed chunk and back (docs/FORMAT.md section 5): compress, derive the key from the exact bytes that are encrypted, encrypt, name by the
 * hash of the ciphertext; and verify, decrypt, decompress.
 *
 * The key never comes from the pages before compression: two zstd versions would then encrypt two payloads under one key and counter. Not GCM: its tag does
 * not bind against someone who holds the key, and the id, which the manifest authenticates, already does.
 *
 * Everything here is synchronous and costs 0.2 to 1.5 ms a chunk: callers run it on worker threads (seal/pool.ts), the read path on its own.
 */
import { createCipheriv, createDecipheriv, createHmac, hash } from 'node:crypto'
import { constants, zstdCompressSync, zstdDecompressSync } from 'node:zlib'
import { CHUNK_PAGES, PAGE_BYTES, RANGE_BYTES } from './chunk.ts'
import { ThawError } from './errors.ts'
import type { Sealer } from './keys.ts'
import { copyWhole } from './util/copy.ts'
import { discard } from './util/discard.ts'
import { isOneFrame } from './util/zstd-frame.ts'

/** codec u8 ‖ body length u32. */
const HEADER_BYTES = 5
/** A raw chunk of 128 pages with its header, padded: 129 pages. */
export const SEALED_BYTES_MAX: number = RANGE_BYTES + PAGE_BYTES
/** Compression that saves less than a tenth costs more than it saves. */
const COMPRESSED_SHARE_MAX = 0.9
const ZERO_IV = Buffer.alloc(16)
/** Small enough that its memory is used again and again. */
const DECRYPTED_AT_ONCE = 16 * 1024
/** Room behind the pages: zlib that finds its buffer full makes a second one of that size, and the collector had to run for every 25 chunks. */
const SPARE_BYTES = 64

const CODEC = { raw: 0, zstd: 1 } as const

/** What must be the same for two publishers' chunks to be equal: it stands in the root. */
export interface SealingProfile {
  readonly codec: string
  readonly level: number
  /** zstd's version: its output differs between versions. */
  readonly zstd: string
}

/** The profile of this process. */
export const SEALING_PROFILE: SealingProfile = { codec: 'zstd', level: 1, zstd: process.versions.zstd ?? 'unknown' }

/** One output buffer above zstd's bound for 512 KiB makes it a single pass; the output depends on that, so it is part of the profile. */
const ZSTD_OPTIONS = { chunkSize: SEALED_BYTES_MAX, params: { [constants.ZSTD_c_compressionLevel]: SEALING_PROFILE.level } } as const

/** What a manifest knows of a chunk, and all it takes to open it. */
export interface ChunkRef {
  /** SHA-256 of the sealed bytes. */
  readonly id: Uint8Array
  /** AES-256 key, 32 bytes. */
  readonly key: Uint8Array
  /** 1 to 128. */
  readonly pages: number
}

/** What sealing a payload gave; the sealed bytes are where the caller wanted them. */
export interface Sealed {
  readonly id: Uint8Array
  readonly key: Uint8Array
  readonly sizeBytes: number
}

/** Bytes that match their manifest entry: only `open` makes one. */
export class OpenedChunk {
  /** pages × 4096 bytes: the front of the memory they were opened into. */
  readonly bytes: Buffer
  private constructor(bytes: Buffer) {
    this.bytes = bytes
  }

  /**
   * Verifies, decrypts and decompresses into the front of `target`, which has room for the pages and does not overlap `sealed`. Both are the caller's again at once.
   * @throws CORRUPT if the bytes are not those of the id, BAD_FORMAT if they are but do not open to that many pages. Nothing was written to `target` then.
   */
  static open(sealed: Uint8Array, chunk: ChunkRef, target: Buffer): OpenedChunk {
    verifyChunk(sealed, chunk.id)
    const payload = decrypt(sealed, chunk)
    const pages = decodePayload(payload, chunk.pages, chunk.id)
    const opened = target.subarray(0, pages.length)
    copyWhole(pages, target)
    if (pages.buffer !== payload.buffer) discard(pages)
    return new OpenedChunk(opened)
  }
}

/** Decrypted payloads of this thread, one at a time. */
let payloadMemory: Buffer | undefined

/**
 * The payload, until the next call. Decrypted piece by piece: a result of half a megabyte would be memory fresh from the kernel each time, and its page faults cost more
 * than the decryption.
 */
function decrypt(sealed: Uint8Array, { id, key }: ChunkRef): Buffer {
  if (sealed.length > SEALED_BYTES_MAX) throw badFormat(id, `${sealed.length} bytes`)
  payloadMemory ??= Buffer.alloc(SEALED_BYTES_MAX)
  const decipher = createDecipheriv('aes-256-ctr', key, ZERO_IV)
  for (let at = 0; at < sealed.length; at += DECRYPTED_AT_ONCE) {
    const piece = decipher.update(sealed.subarray(at, at + DECRYPTED_AT_ONCE))
    piece.copy(payloadMemory, at)
    piece.buffer.transfer(0)
  }
  return payloadMemory.subarray(0, sealed.length)
}

/** @throws CORRUPT if the bytes are not those of the id. Needs no key. */
export function verifyChunk(sealed: Uint8Array, id: Uint8Array): void {
  if (hash('sha256', sealed, 'buffer').equals(id)) return
  const object = Buffer.from(id).toString('hex')
  throw new ThawError('CORRUPT', `chunk ${object}: its bytes do not match its id`, { object })
}

/**
 * Payload of `pages` pages at the front of `bytes`, written to `payload` (at least SEALED_BYTES_MAX bytes).
 * @returns its length in bytes.
 */
export function encodePayload(bytes: Buffer, pages: number, sealer: Pick<Sealer, 'compress' | 'pad'>, payload: Uint8Array): number {
  const plain = bytes.subarray(0, pages * PAGE_BYTES)
  const frame = sealer.compress ? zstdCompressSync(plain, ZSTD_OPTIONS) : undefined
  const compressed = frame !== undefined && frame.length <= plain.length * COMPRESSED_SHARE_MAX
  const body = compressed ? frame : plain
  const bodyBytes = body.length
  payload[0] = compressed ? CODEC.zstd : CODEC.raw
  new DataView(payload.buffer, payload.byteOffset).setUint32(1, bodyBytes, true)
  copyWhole(body, payload, HEADER_BYTES)
  if (frame !== undefined) discard(frame)
  const end = HEADER_BYTES + bodyBytes
  if (!sealer.pad) return end
  const padded = Math.ceil(end / PAGE_BYTES) * PAGE_BYTES
  payload.fill(0, end, padded)
  return padded
}

/** Seals a payload into `sealed`, which must not overlap it. The salt is the root's. */
export function sealPayload(payload: Uint8Array, secret: Uint8Array, salt: Uint8Array, sealed: Uint8Array): Sealed {
  const digest = hash('sha256', payload, 'buffer')
  const key = createHmac('sha256', secret).update(salt).update(digest).digest()
  const encrypted = createCipheriv('aes-256-ctr', key, ZERO_IV).update(payload)
  copyWhole(encrypted, sealed)
  discard(encrypted)
  const id = hash('sha256', sealed.subarray(0, payload.length), 'buffer')
  return { id, key, sizeBytes: payload.length }
}

/**
 * The pages of a payload; may be a view of it.
 * @throws BAD_FORMAT. With a wrong key the payload is noise, which has a codec of 0 or 1 and a matching length by an accident of one in 2³⁸.
 */
export function decodePayload(payload: Buffer, pages: number, id: Uint8Array): Buffer {
  const bad = (why: string): ThawError => badFormat(id, why)
  if (pages < 1 || pages > CHUNK_PAGES) throw bad(`${pages} pages`)
  if (payload.length < HEADER_BYTES || payload.length > SEALED_BYTES_MAX) throw bad(`${payload.length} bytes`)
  const codec = payload[0]
  const bodyBytes = new DataView(payload.buffer, payload.byteOffset).getUint32(1, true)
  const end = HEADER_BYTES + bodyBytes
  if (end > payload.length || payload.length - end >= PAGE_BYTES) throw bad('its payload does not have the length it says')
  for (let at = end; at < payload.length; at++) if (payload[at] !== 0) throw bad('its padding is not zero')
  const body = payload.subarray(HEADER_BYTES, end)
  const plainBytes = pages * PAGE_BYTES
  if (codec === CODEC.raw) {
    if (bodyBytes !== plainBytes) throw bad(`it holds ${bodyBytes} bytes where the manifest says ${pages} pages`)
    return body
  }
  if (codec !== CODEC.zstd) throw bad(`codec ${codec} is not one this build knows`)
  if (!isOneFrame(body)) throw bad('its body is not one zstd frame')
  return decompress(body, plainBytes, bad)
}

function badFormat(id: Uint8Array, why: string): ThawError {
  const object = Buffer.from(id).toString('hex')
  return new ThawError('BAD_FORMAT', `chunk ${object}: ${why}`, { object })
}

function decompress(body: Uint8Array, plainBytes: number, bad: (why: string) => ThawError): Buffer {
  let plain: Buffer
  try {
    plain = zstdDecompressSync(body, { chunkSize: plainBytes + SPARE_BYTES, maxOutputLength: plainBytes })
  } catch (cause) {
    throw bad(`it does not decompress (${cause instanceof Error ? cause.message : String(cause)})`)
  }
  if (plain.length !== plainBytes) throw bad(`it decompresses to ${plain.length} bytes where the manifest says ${plainBytes}`)
  return plain
}
