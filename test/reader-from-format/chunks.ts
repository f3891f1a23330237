/** Chunks: from a payload to an id and back (FORMAT.md, section 5). */
import { allZero, join, PAGE, readU32 } from './bytes.ts'
import { aesCtr, hmacSha256, sha256 } from './crypto.ts'
import { FormatError, refuse } from './errors.ts'
import { decompressFrame } from './zstd.ts'

export const MAX_SEALED = 129 * PAGE
export const MAX_PAGES = 128

export interface SealedChunk {
  id: Uint8Array
  key: Uint8Array
  sealed: Uint8Array
}

/** Steps 3 to 6 of section 5.1. */
export async function sealFromPayload(payload: Uint8Array, secret: Uint8Array, salt: Uint8Array): Promise<SealedChunk> {
  const key = await hmacSha256(secret, join(salt, await sha256(payload)))
  const sealed = await aesCtr(key, payload)
  return { id: await sha256(sealed), key, sealed }
}

/** Section 5.2 from the decryption on; who has the id compares it first. */
export async function openChunk(sealed: Uint8Array, key: Uint8Array, pages: number): Promise<Uint8Array> {
  refuse(pages < 1 || pages > MAX_PAGES, `a chunk of ${pages} pages`)
  refuse(sealed.length < 5 || sealed.length > MAX_SEALED, `a sealed chunk of ${sealed.length} bytes`)
  const payload = await aesCtr(key, sealed)
  const codec = payload[0]
  const bodyLength = readU32(payload, 1)
  refuse(bodyLength > payload.length - 5, "a chunk's body does not lie within its payload")
  const body = payload.subarray(5, 5 + bodyLength)
  const padding = payload.subarray(5 + bodyLength)
  refuse(padding.length >= PAGE, "a chunk's padding is a page or longer")
  refuse(!allZero(padding), "a chunk's padding is not zero")
  if (codec === 0) {
    refuse(body.length !== pages * PAGE, "a chunk's body is not as long as its pages")
    return body
  }
  if (codec === 1) return decompressFrame(body, pages * PAGE)
  throw new FormatError('BAD_FORMAT', `a chunk of unknown codec ${codec}`)
}

/** The finalizer of SplitMix64, which tells a publisher where packs end; a reader itself has no use for it. */
export function mix64(p: bigint): bigint {
  const cut = (value: bigint): bigint => BigInt.asUintN(64, value)
  let z = cut(p)
  z = cut((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n)
  z = cut((z ^ (z >> 27n)) * 0x94d049bb133111ebn)
  return z ^ (z >> 31n)
}
