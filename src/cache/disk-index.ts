/**
 * The index file of a disk cache: ids and sizes, least recently used first, so that the order outlives
 * the process and nobody has to look at every file to learn its size. It is a hint like all of the
 * cache: old, torn or strange, it costs a look at files and nothing else.
 *
 *     magic, 8 bytes | frames: entries, u32 | id, 32 bytes, and blocks of 4 KiB, u32, of each | SHA-256 of the frame before
 *
 * All frames but the last are full. A frame is what is written, read and hashed at once: a tenth of a
 * millisecond, and other work gets its turn in between.
 */
import { hash } from 'node:crypto'
import { read, writeAll } from '../store/directory-files.ts'
import type { Catalog } from './disk-catalog.ts'
import { BLOCK_BYTES, type CacheFiles, readHint } from './disk-files.ts'

const MAGIC = Buffer.from('thawidx2')
const ID_BYTES = 32
const ENTRY_BYTES = ID_BYTES + 4
const HEAD_BYTES = 4
const HASH_BYTES = 32
const FRAME_ENTRIES = 512
const FRAME_BYTES = HEAD_BYTES + FRAME_ENTRIES * ENTRY_BYTES + HASH_BYTES

/** Raw errors of `node:fs`, and what `check` throws. */
export async function writeIndex(files: CacheFiles, catalog: Catalog, check?: () => void): Promise<void> {
  await files.replace(files.indexPath, async fd => {
    let position = MAGIC.length
    await writeAll(fd, MAGIC)
    for (const frame of framesOf(catalog)) {
      check?.()
      await writeAll(fd, frame, position)
      position += frame.length
    }
  })
}

/** Each is good until the next one is asked for. */
function* framesOf(catalog: Catalog): Generator<Uint8Array> {
  const frame = Buffer.alloc(FRAME_BYTES)
  let entries = 0
  const add = (id: Uint8Array, blocks: number): void => {
    const at = HEAD_BYTES + entries * ENTRY_BYTES
    frame.set(id, at)
    frame.writeUInt32LE(blocks, at + ID_BYTES)
  }
  for (const _ of catalog.oldestFirst(add)) {
    if (++entries < FRAME_ENTRIES) continue
    yield sealed(frame, entries)
    entries = 0
  }
  yield sealed(frame, entries)
}

function sealed(frame: Buffer, entries: number): Uint8Array {
  frame.writeUInt32LE(entries)
  const hashAt = HEAD_BYTES + entries * ENTRY_BYTES
  hash('sha256', frame.subarray(0, hashAt), 'buffer').copy(frame, hashAt)
  return frame.subarray(0, hashAt + HASH_BYTES)
}

/** Adds what the index says to a catalog, up to where it is torn or cannot be read. Raw errors of `node:fs`, and what `check` throws. */
export async function readIndex(files: CacheFiles, catalog: Catalog, check: () => void): Promise<void> {
  await readHint(files.indexPath, async fd => {
    const frame = Buffer.alloc(FRAME_BYTES)
    await read(fd, frame, 0, MAGIC.length, 0)
    if (!frame.subarray(0, MAGIC.length).equals(MAGIC)) return
    for (let position = MAGIC.length, entries = FRAME_ENTRIES; entries === FRAME_ENTRIES; position += FRAME_BYTES) {
      entries = addFrame(frame.subarray(0, await read(fd, frame, 0, FRAME_BYTES, position)), catalog)
      check()
    }
  })
}

/** Its number of entries; 0 if it is none that was written so. */
function addFrame(frame: Buffer, catalog: Catalog): number {
  const entries = frame.length < HEAD_BYTES ? 0 : frame.readUInt32LE()
  const hashAt = HEAD_BYTES + entries * ENTRY_BYTES
  if (entries > FRAME_ENTRIES || frame.length < hashAt + HASH_BYTES) return 0
  if (!hash('sha256', frame.subarray(0, hashAt), 'buffer').equals(frame.subarray(hashAt, hashAt + HASH_BYTES))) return 0
  for (let at = HEAD_BYTES; at < hashAt; at += ENTRY_BYTES) {
    catalog.add(frame.subarray(at, at + ID_BYTES), frame.readUInt32LE(at + ID_BYTES) * BLOCK_BYTES)
  }
  return entries
}
