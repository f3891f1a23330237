/**
 * What a key may be, the same in every store, so that a store can be copied between providers: segments joined by `/`, none of them
 * empty, `.` or `..`, without control characters; at most 1,024 bytes (S3) of at most 255 a segment (file systems). The first segment is never `tmp`:
 * on a directory that folder holds files being written (docs/FORMAT.md section 2).
 *
 * Keys are ordered by their UTF-8 bytes, as S3 lists them. JavaScript orders strings by UTF-16 code units, which differs above U+FFFF.
 */

const KEY_BYTES_MAX = 1024
const SEGMENT_BYTES_MAX = 255

/** The folder of unfinished files: no part of any store. */
export const TEMPORARY = 'tmp'

/** Whether a string can be a key. Listings leave out what is not: nobody could read it. */
export function isKey(key: string): boolean {
  if (!key.isWellFormed() || hasControl(key) || Buffer.byteLength(key) > KEY_BYTES_MAX) return false
  const segments = key.split('/')
  return segments[0] !== TEMPORARY && segments.every(isSegment)
}

/** RangeError if the string cannot be a key. */
export function checkKey(key: string): void {
  if (!isKey(key)) throw new RangeError(`not an object key: ${JSON.stringify(key)}`)
}

/** RangeError if no key can start so. The last segment may be unfinished or empty. */
export function checkPrefix(prefix: string): void {
  const folder = folderOf(prefix)
  if ((folder !== '' && !isKey(folder)) || prefix.startsWith('/') || !prefix.isWellFormed() || hasControl(prefix)) {
    throw new RangeError(`not a prefix of object keys: ${JSON.stringify(prefix)}`)
  }
}

/** RangeError if the string is neither empty nor a prefix that ends in `/`. */
export function checkFolderPrefix(prefix: string): void {
  checkPrefix(prefix)
  if (prefix !== '' && !prefix.endsWith('/')) throw new RangeError(`a folder prefix ends in "/": ${JSON.stringify(prefix)}`)
}

/** Everything before the last `/`; empty without one. */
export function folderOf(key: string): string {
  const slash = key.lastIndexOf('/')
  return slash < 0 ? '' : key.slice(0, slash)
}

/** Negative, zero or positive, by UTF-8 bytes, without encoding: surrogates (above U+FFFF) are moved behind U+E000 to U+FFFF. */
export function compareKeys(a: string, b: string): number {
  const length = Math.min(a.length, b.length)
  for (let index = 0; index < length; index++) {
    const x = a.charCodeAt(index)
    const y = b.charCodeAt(index)
    if (x !== y) return utf8Rank(x) - utf8Rank(y)
  }
  return a.length - b.length
}

function utf8Rank(unit: number): number {
  if (unit < 0xd800) return unit
  return unit < 0xe000 ? unit + 0x2000 : unit - 0x800
}

function isSegment(segment: string): boolean {
  return segment !== '' && segment !== '.' && segment !== '..' && (segment.length <= 85 || Buffer.byteLength(segment) <= SEGMENT_BYTES_MAX)
}

function hasControl(text: string): boolean {
  for (let index = 0; index < text.length; index++) {
    const unit = text.charCodeAt(index)
    if (unit < 0x20 || unit === 0x7f) return true
  }
  return false
}
