/**
 * States and digests of an image's ranges, collected while its length is not known yet (docs/FORMAT.md section 6). A range of which nothing is said is zero.
 */
import { CHUNK_PAGES } from '../chunk.ts'
import { DIGEST_BYTES, RANGE_STATE, type RangeDigests } from '../manifest.ts'

/** Ranges there is room for at first: 64 MiB of image. */
const RANGES_MIN = CHUNK_PAGES

export class DigestColumn {
  #states = new Uint8Array(RANGES_MIN)
  #digests = new Uint8Array(RANGES_MIN * DIGEST_BYTES)

  known(range: number, digest: Uint8Array): void {
    this.#reserve(range + 1)
    this.#states[range] = RANGE_STATE.known
    this.#digests.set(digest, range * DIGEST_BYTES)
  }

  unknown(range: number): void {
    this.#reserve(range + 1)
    this.#states[range] = RANGE_STATE.unknown
  }

  /** Ranges [from, to) are as in another image, which has them. */
  inherit({ states, digests }: RangeDigests, from: number, to: number): void {
    this.#reserve(to)
    this.#states.set(states.subarray(from, to), from)
    this.#digests.set(digests.subarray(from * DIGEST_BYTES, to * DIGEST_BYTES), from * DIGEST_BYTES)
  }

  #reserve(ranges: number): void {
    let room = this.#states.length
    if (room >= ranges) return
    while (room < ranges) room *= 2
    const states = new Uint8Array(room)
    const digests = new Uint8Array(room * DIGEST_BYTES)
    states.set(this.#states)
    digests.set(this.#digests)
    this.#states = states
    this.#digests = digests
  }

  build(ranges: number): RangeDigests {
    this.#reserve(ranges)
    return { states: this.#states.slice(0, ranges), digests: this.#digests.slice(0, ranges * DIGEST_BYTES) }
  }
}
