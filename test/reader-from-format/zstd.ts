/**
 * "Exactly one zstd frame": a walk over the frame's structure (RFC 8878, section 3.1.1), because a decompressor by itself would also
 * take several frames, skippable frames, or bytes behind the frame. The decompressor then judges what lies inside the blocks.
 */
import { zstdDecompressSync } from 'node:zlib'
import { readU32 } from './bytes.ts'
import { FormatError } from './errors.ts'

const MAGIC = 0xfd2fb528
const BLOCK_MAX = 128 * 1024
const BLOCK_TYPES = ['raw', 'rle', 'compressed', 'reserved']

export interface Frame {
  /** Where the frame ends. */
  length: number
  /** The content size its header tells, if it does. */
  contentSize: number | undefined
}

function bad(reason: string): FormatError {
  return new FormatError('BAD_FORMAT', `zstd: ${reason}`)
}

export function walkFrame(bytes: Uint8Array): Frame {
  let at = 0
  function take(size: number): Uint8Array {
    if (size > bytes.length - at) throw bad('the frame ends early')
    at += size
    return bytes.subarray(at - size, at)
  }
  function uint(size: number): number {
    return take(size).reduceRight((sum, byte) => sum * 256 + byte, 0)
  }

  if (readU32(take(4), 0) !== MAGIC) throw bad('not a zstd frame')
  const descriptor = uint(1)
  const singleSegment = (descriptor & 0x20) !== 0
  if ((descriptor & 0x08) !== 0) throw bad('a reserved bit is set')
  const hasChecksum = (descriptor & 0x04) !== 0
  if (!singleSegment) take(1)
  if ((descriptor & 0x03) !== 0) throw bad('the frame asks for a dictionary')

  let contentSize: number | undefined
  const sizeFlag = descriptor >> 6
  if (sizeFlag === 0 && singleSegment) contentSize = uint(1)
  if (sizeFlag === 1) contentSize = uint(2) + 256
  if (sizeFlag === 2) contentSize = uint(4)
  if (sizeFlag === 3) contentSize = uint(8)

  let last = false
  while (!last) {
    const header = uint(3)
    last = (header & 1) === 1
    const type = BLOCK_TYPES[(header >> 1) & 3]
    const size = header >> 3
    if (type === 'reserved') throw bad('a block of a reserved type')
    if (size > BLOCK_MAX) throw bad('a block of more than 128 KiB')
    // The size of an RLE block is how often its one byte is repeated.
    take(type === 'rle' ? 1 : size)
  }
  if (hasChecksum) take(4)
  return { length: at, contentSize }
}

/** Decompresses bytes that must be one frame, and nothing else, of exactly `size` bytes. */
export function decompressFrame(bytes: Uint8Array, size: number): Uint8Array {
  const frame = walkFrame(bytes)
  if (frame.length !== bytes.length) throw bad('bytes behind the frame')
  if (frame.contentSize !== undefined && frame.contentSize !== size) throw bad('the header tells another size')
  let content: Uint8Array
  try {
    // Node refuses a limit of zero.
    content = zstdDecompressSync(bytes, { maxOutputLength: Math.max(size, 1) })
  } catch (error) {
    throw bad(`the frame does not decompress: ${error instanceof Error ? error.message : String(error)}`)
  }
  if (content.length !== size) throw bad('the frame yields another size')
  return content
}
