/** Which bytes of an image are holes: for BLOCK_STATUS, and for reads that need not send zeros. */
import { PAGE_BYTES } from '../../chunk.ts'
import type { ServedImage } from '../../pager.ts'
import { STATE_HOLE, STATE_ZERO } from './protocol.ts'

/** Of one reply. Clients ask for the rest. */
export const EXTENTS_MAX = 1024
/** Looked at for one reply: an image without holes still has a run for each chunk. */
const STRETCHES_MAX = 4096
/** A run of zeros within a read that is shorter is sent as bytes: a chunk of a reply costs both sides about as much. */
const HOLE_BYTES_MIN = 32 * 1024
/** Of data in one chunk of a reply: what the peer does not take of it is copied, of the rest of the read nothing is. */
const PART_BYTES_MAX: number = 2 ** 18

/** Lengths and flags of base:allocation in turns. Overwritten by the next `collectExtents`. */
export const extents: Uint32Array = new Uint32Array(2 * EXTENTS_MAX)

/** Fills `extents` for bytes [offset, offset + sizeBytes), not none and less than 2³², or for the first of them. @returns how many numbers there are */
export function collectExtents(image: ServedImage, offset: number, sizeBytes: number, extentsMax: number): number {
  const end = offset + sizeBytes
  let count = 0
  let at = offset
  for (let stretches = 0; at < end && stretches < STRETCHES_MAX; stretches++) {
    const page = Math.floor(at / PAGE_BYTES)
    const { isZero, pages } = image.stretch(page)
    const until = Math.min((page + pages) * PAGE_BYTES, end)
    const state = isZero ? STATE_HOLE | STATE_ZERO : 0
    if (count > 0 && extents[count - 1] === state) extents[count - 2]! += until - at
    else {
      if (count === 2 * extentsMax) break
      extents[count++] = until - at
      extents[count++] = state
    }
    at = until
  }
  return count
}

/** The next part of a read's reply. One object, overwritten by the next `nextPart`. */
interface Part {
  isHole: boolean
  sizeBytes: number
}

const part: Part = { isHole: false, sizeBytes: 0 }

/** What a structured reply gives next of bytes [offset, offset + left), not none: a hole worth telling of, or data up to the next one. */
export function nextPart(image: ServedImage, offset: number, left: number): Part {
  const end = offset + Math.min(left, PART_BYTES_MAX)
  for (let at = offset; at < end; ) {
    const page = Math.floor(at / PAGE_BYTES)
    const { isZero, pages } = image.stretch(page)
    const until = (page + pages) * PAGE_BYTES
    const holeBytes = Math.min(until, offset + left) - at
    if (isZero && (holeBytes >= HOLE_BYTES_MIN || holeBytes === left)) {
      part.isHole = at === offset
      part.sizeBytes = part.isHole ? holeBytes : at - offset
      return part
    }
    at = until
  }
  part.isHole = false
  part.sizeBytes = end - offset
  return part
}
