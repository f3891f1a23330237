/**
 * Work on bytes that may be many, on a thread that others wait for: a slice a turn of the event loop.
 * A manifest of 30 GiB is 5 MiB, the largest is 256.
 */
import { createHash } from 'node:crypto'
import { SlicedWork } from './sliced-work.ts'

/** Hashed in 0.2 to 1 ms. */
export const SLICE_BYTES: number = 2 ** 18

const work = new SlicedWork()

/** SHA-256 in hex. The bytes are read until this settles. */
export async function sha256OfLong(bytes: Uint8Array): Promise<string> {
  const hash = createHash('sha256')
  await forEachSlice(bytes, slice => hash.update(slice))
  return hash.digest('hex')
}

/** The same bytes in memory of their own. They are read until this settles. */
export async function copyOfLong(bytes: Uint8Array): Promise<Uint8Array<ArrayBuffer>> {
  const copy = new Uint8Array(bytes.length)
  await forEachSlice(bytes, (slice, at) => copy.set(slice, at))
  return copy
}

async function forEachSlice(bytes: Uint8Array, use: (slice: Uint8Array, at: number) => void): Promise<void> {
  let at = 0
  await work.run(() => {
    use(bytes.subarray(at, at + SLICE_BYTES), at)
    at += SLICE_BYTES
    return at >= bytes.length
  })
}
