/**
 * Chunks taken over from a parent in another root are copied, as they are, to the root of the new snapshot: a root lives and dies whole.
 */
import { chunkKey } from '../layout.ts'
import { SEALED_BYTES_MAX, verifyChunk } from '../seal.ts'
import type { CallOptions, ObjectStore } from '../store.ts'
import { forEachAtOnce } from '../util/at-once.ts'
import type { ChunkTable } from './chunk-writer.ts'

/** Copies what `to` lacks. Ids do not change, and every chunk is verified on its way. */
export async function copyInherited(
  objects: ObjectStore,
  from: string,
  to: string,
  table: ChunkTable,
  options: CallOptions,
): Promise<void> {
  if (from === to) return
  await forEachAtOnce(inheritedChunks(table), objects.concurrency, async ({ domain, id, sealedBytes }) => {
    const target = chunkKey(to, domain, id)
    if ((await objects.head(target, options))?.sizeBytes === sealedBytes) return
    const bytes = await objects.get(chunkKey(from, domain, id), { ...options, sizeMax: SEALED_BYTES_MAX })
    const sha256 = Buffer.from(id, 'hex')
    verifyChunk(bytes, sha256)
    await objects.put(target, bytes, { ...options, sha256 })
  })
}

function* inheritedChunks({ segments, ids, sealedBytes }: ChunkTable): Generator<{ domain: string; id: string; sealedBytes: number }> {
  let index = 0
  for (const { origin, domain, count } of segments) {
    for (const end = index + count; index < end; index++) {
      if (origin === undefined) continue
      yield { domain, id: Buffer.from(ids.buffer, ids.byteOffset + index * 32, 32).toString('hex'), sealedBytes: sealedBytes[index]! }
    }
  }
}
