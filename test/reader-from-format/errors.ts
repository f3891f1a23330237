/**
 * The one error this reader throws. FORMAT.md names two codes: CORRUPT (bytes are not those that were stored: a hash, an
 * authentication tag or a signature says so) and BAD_FORMAT (bytes that no writer of this version may produce). The other two tell
 * a caller that something is missing rather than wrong.
 */
export type FormatErrorCode = 'BAD_FORMAT' | 'CORRUPT' | 'NOT_FOUND' | 'NO_KEY'

export class FormatError extends Error {
  readonly code: FormatErrorCode
  readonly reason: string

  constructor(code: FormatErrorCode, reason: string) {
    super(`${code}: ${reason}`)
    this.name = 'FormatError'
    this.code = code
    this.reason = reason
  }
}

export function refuse(condition: boolean, reason: string): void {
  if (condition) throw new FormatError('BAD_FORMAT', reason)
}
