/**
 * What a hit must cost whoever serves it: the sealed bytes, hashed and compared, decrypted, decompressed, with Node's own calls and no thaw. It shares no code with what
 * it is compared with.
 */
import { createDecipheriv, hash } from 'node:crypto'
import { zstdDecompressSync } from 'node:zlib'
import type { StoredChunk } from '../../src/engine/chunk-table.ts'

const HEADER_BYTES = 5
const IV = Buffer.alloc(16)

/** @returns the first byte of the pages, so that nothing can be left out. */
export function openByHand(sealed: Buffer, { id, key, pages }: StoredChunk): number {
  if (!hash('sha256', sealed, 'buffer').equals(id)) throw new Error('other bytes')
  const payload = createDecipheriv('aes-256-ctr', key, IV).update(sealed)
  const body = payload.subarray(HEADER_BYTES, HEADER_BYTES + payload.readUInt32LE(1))
  const opened = payload[0] === 0 ? body : zstdDecompressSync(body, { chunkSize: pages * 4096 })
  if (opened.length !== pages * 4096) throw new Error('another length')
  return opened[0]!
}
