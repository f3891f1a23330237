/**
 * The index file of a disk cache: ids and sizes, least recently used first, so that the order outlives the process and nobody has to look at every file
 * to learn its size. It is a hint like all of the cache: old, torn or strange, it costs a scan and nothing else.
 *
 *     magic, 8 bytes | entries, u32 | ids, 32 bytes each | sizes, u48 each | SHA-256 of all before
 */
import { hash } from 'node:crypto'
import { Order } from './disk-order.ts'

const MAGIC = Buffer.from('thawidx1')
const HEAD_BYTES = MAGIC.length + 4
const ID_BYTES = 32
const SIZE_BYTES = 6
const HASH_BYTES = 32
/** Taken in without a pause: two milliseconds. */
const SLICE_ENTRIES = 4096

export function encodeIndex(order: Order): Buffer {
  const sizesAt = HEAD_BYTES + order.entries * ID_BYTES
  const index = Buffer.alloc(sizesAt + order.entries * SIZE_BYTES + HASH_BYTES)
  MAGIC.copy(index)
  index.writeUInt32LE(order.entries, MAGIC.length)
  let at = 0
  for (const [id, sizeBytes] of order.oldestFirst()) {
    index.write(id, HEAD_BYTES + at * ID_BYTES, 'hex')
    index.writeUIntLE(sizeBytes, sizesAt + at * SIZE_BYTES, SIZE_BYTES)
    at++
  }
  hashOf(index).copy(index, index.length - HASH_BYTES)
  return index
}

/** The order that was written, or an empty one if that is not what the bytes are. Other work gets its turn meanwhile. */
export async function decodeIndex(index: Buffer): Promise<Order> {
  const order = new Order()
  if (index.length < HEAD_BYTES + HASH_BYTES || !index.subarray(0, MAGIC.length).equals(MAGIC)) return order
  const entries = index.readUInt32LE(MAGIC.length)
  const sizesAt = HEAD_BYTES + entries * ID_BYTES
  if (index.length !== sizesAt + entries * SIZE_BYTES + HASH_BYTES) return order
  if (!hashOf(index).equals(index.subarray(-HASH_BYTES))) return order
  for (let at = 0; at < entries; at++) {
    const idAt = HEAD_BYTES + at * ID_BYTES
    if (at % SLICE_ENTRIES === SLICE_ENTRIES - 1) await new Promise(setImmediate)
    order.add(index.toString('hex', idAt, idAt + ID_BYTES), index.readUIntLE(sizesAt + at * SIZE_BYTES, SIZE_BYTES))
  }
  return order
}

function hashOf(index: Buffer): Buffer {
  return hash('sha256', index.subarray(0, -HASH_BYTES), 'buffer')
}
