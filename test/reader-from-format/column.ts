/** Columns of a manifest: codec u8 ‖ raw length u32 ‖ body (FORMAT.md, section 6). */
import { readU32 } from './bytes.ts'
import { FormatError, refuse } from './errors.ts'
import { decompressFrame } from './zstd.ts'

/** `atLeast` and `atMost` bound the raw length, and are looked at before anything is decompressed. */
export function decodeColumn(column: Uint8Array, atLeast: number, atMost: number, what: string): Uint8Array {
  refuse(column.length < 5, `${what}: a column of less than 5 bytes`)
  const codec = column[0]
  const rawLength = readU32(column, 1)
  const body = column.subarray(5)
  refuse(rawLength < atLeast || rawLength > atMost, `${what}: a column of ${rawLength} raw bytes, expected ${atLeast} to ${atMost}`)
  if (codec === 0) {
    refuse(body.length !== rawLength, `${what}: a column whose body is not as long as it says`)
    return body
  }
  if (codec === 1) return decompressFrame(body, rawLength)
  throw new FormatError('BAD_FORMAT', `${what}: a column of unknown codec ${codec}`)
}
