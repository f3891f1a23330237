/** LEB128 varints of at most 5 bytes and below 2³², and zigzag (FORMAT.md, section 6). */
import { FormatError } from './errors.ts'

export class Varints {
  readonly #bytes: Uint8Array
  #at = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
  }

  next(): number {
    let value = 0
    for (let i = 0; i < 5; i++) {
      const byte = this.#bytes[this.#at]
      if (byte === undefined) throw new FormatError('BAD_FORMAT', 'varint: ends early')
      this.#at++
      // Not a shift: JavaScript's are of 32 signed bits.
      value += (byte & 0x7f) * 2 ** (7 * i)
      if (value >= 2 ** 32) throw new FormatError('BAD_FORMAT', 'varint: 2^32 or more')
      if (byte < 0x80) return value
    }
    throw new FormatError('BAD_FORMAT', 'varint: longer than 5 bytes')
  }

  /** To be called when all that was expected has been read. */
  end(): void {
    if (this.#at !== this.#bytes.length) throw new FormatError('BAD_FORMAT', 'varint: bytes behind the last one')
  }
}

export function unzigzag(value: number): number {
  return value % 2 === 0 ? value / 2 : -(value + 1) / 2
}
