/** Compares two files byte for byte, in pieces: an image may be larger than memory. */
import { open } from 'node:fs/promises'

const PIECE_BYTES = 4 * 2 ** 20

/** Whether two files have the same length and the same bytes. */
export async function sameBytes(one: string, other: string): Promise<boolean> {
  await using a = await open(one)
  await using b = await open(other)
  const { size } = await a.stat()
  if (size !== (await b.stat()).size) return false
  const [pieceA, pieceB] = [Buffer.alloc(PIECE_BYTES), Buffer.alloc(PIECE_BYTES)]
  for (let at = 0; at < size; at += PIECE_BYTES) {
    const [fromA, fromB] = await Promise.all([a.read(pieceA, 0, PIECE_BYTES, at), b.read(pieceB, 0, PIECE_BYTES, at)])
    if (fromA.bytesRead !== fromB.bytesRead) return false
    if (!pieceA.subarray(0, fromA.bytesRead).equals(pieceB.subarray(0, fromB.bytesRead))) return false
  }
  return true
}
