/**
 * Walks the structure of a zstd frame (RFC 8878 section 3.1.1) without decompressing it. zlib's decoder accepts several frames, skippable ones and bytes
 * behind the last, so a payload could hide data that a second reader sees differently; the format allows exactly one frame.
 */

const MAGIC = 0xfd2fb528
const CONTENT_SIZE_BYTES = [0, 2, 4, 8] as const
const DICTIONARY_ID_BYTES = [0, 1, 2, 4] as const
const BLOCK = { raw: 0, rle: 1, compressed: 2 } as const
const CHECKSUM_BYTES = 4

/** Whether `bytes` is one zstd frame from its first byte to its last. Says nothing of what the blocks hold. */
export function isOneFrame(bytes: Uint8Array): boolean {
  if (bytes.length < 6) return false
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  if (view.getUint32(0, true) !== MAGIC) return false
  const descriptor = bytes[4]!
  const singleSegment = (descriptor & 0x20) !== 0
  const sizeFlag = descriptor >> 6
  const sizeBytes = sizeFlag === 0 && singleSegment ? 1 : CONTENT_SIZE_BYTES[sizeFlag]!
  let at = 5 + (singleSegment ? 0 : 1) + DICTIONARY_ID_BYTES[descriptor & 3]! + sizeBytes
  for (let last = false; !last; ) {
    if (at + 3 > bytes.length) return false
    const header = bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16)
    last = (header & 1) === 1
    const type = (header >> 1) & 3
    if (type > BLOCK.compressed) return false
    at += 3 + (type === BLOCK.rle ? 1 : header >> 3)
  }
  if ((descriptor & 4) !== 0) at += CHECKSUM_BYTES
  return at === bytes.length
}
