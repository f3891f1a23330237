/**
 * Columns: byte strings of many small numbers, compressed where that helps (docs/FORMAT.md section 6).
 */
import { constants, zstdCompressSync, zstdDecompressSync } from 'node:zlib'
import { isOneFrame } from '../util/zstd-frame.ts'

const HEADER_BYTES = 5
const CODEC = { raw: 0, zstd: 1 } as const
const LEVEL = 3
/** Five groups of seven bits hold 32. */
export const VARINT_BYTES_MAX = 5

export function encodeColumn(raw: Uint8Array): Uint8Array {
  const frame = zstdCompressSync(raw, { params: { [constants.ZSTD_c_compressionLevel]: LEVEL } })
  const compressed = frame.length < raw.length
  const body = compressed ? frame : raw
  const column = new Uint8Array(HEADER_BYTES + body.length)
  column[0] = compressed ? CODEC.zstd : CODEC.raw
  new DataView(column.buffer).setUint32(1, raw.length, true)
  column.set(body, HEADER_BYTES)
  return column
}

/** @throws RangeError for a column that is damaged or longer than `rawBytesMax`. */
export function decodeColumn(column: Uint8Array, rawBytesMax: number): Uint8Array {
  if (column.length < HEADER_BYTES) throw new RangeError('column cut short')
  const rawBytes = new DataView(column.buffer, column.byteOffset).getUint32(1, true)
  if (rawBytes > rawBytesMax) throw new RangeError(`column of ${rawBytes} bytes where at most ${rawBytesMax} are possible`)
  const body = column.subarray(HEADER_BYTES)
  if (column[0] === CODEC.raw) {
    if (body.length !== rawBytes) throw new RangeError('column does not have the length it says')
    return body
  }
  if (column[0] !== CODEC.zstd || !isOneFrame(body)) throw new RangeError('column is not one zstd frame')
  const raw = inflate(body, rawBytes)
  if (raw.length !== rawBytes) throw new RangeError('column does not decompress to the length it says')
  return raw
}

function inflate(body: Uint8Array, rawBytes: number): Uint8Array {
  try {
    return zstdDecompressSync(body, { maxOutputLength: Math.max(rawBytes, 1) })
  } catch (cause) {
    throw new RangeError('column does not decompress', { cause })
  }
}

/** Writes LEB128 varints into a buffer that grows. */
export class VarintWriter {
  #bytes = new Uint8Array(4096)
  #length = 0

  /** `value` is an integer in [0, 2³²). */
  write(value: number): void {
    if (this.#length + VARINT_BYTES_MAX > this.#bytes.length) this.#grow()
    let rest = value
    while (rest >= 0x80) {
      this.#bytes[this.#length++] = (rest % 0x80) | 0x80
      rest = Math.floor(rest / 0x80)
    }
    this.#bytes[this.#length++] = rest
  }

  #grow(): void {
    const larger = new Uint8Array(this.#bytes.length * 2)
    larger.set(this.#bytes)
    this.#bytes = larger
  }

  /** A view of what was written. */
  done(): Uint8Array {
    return this.#bytes.subarray(0, this.#length)
  }
}

export class VarintReader {
  readonly #bytes: Uint8Array
  #at = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
  }

  /** @throws RangeError at the end of the bytes, or for a value of 2³² or more. */
  read(): number {
    let value = 0
    for (let scale = 1, count = 1; count <= VARINT_BYTES_MAX; scale *= 0x80, count++) {
      const byte = this.#bytes[this.#at++]
      if (byte === undefined) throw new RangeError('column cut short')
      value += (byte & 0x7f) * scale
      if (byte < 0x80) {
        if (value >= 2 ** 32) break
        return value
      }
    }
    throw new RangeError('varint too large')
  }

  /** @throws RangeError unless everything was read. */
  end(): void {
    if (this.#at !== this.#bytes.length) throw new RangeError('column has bytes behind its end')
  }
}

export function zigzag(value: number): number {
  return value < 0 ? -2 * value - 1 : 2 * value
}

export function unzigzag(value: number): number {
  return value % 2 === 0 ? value / 2 : -(value + 1) / 2
}
