/** Opens chunks on the threads of a pool, and leaves their pages in its slots: the pool needs OPENED_CHUNKS_MAX of them for each reader, besides those for the work. */
import { PAGE_BYTES } from '../chunk.ts'
import { fetchSealed, type Opener } from '../reader.ts'
import type { SealPool } from '../seal/pool.ts'
import type { ObjectStore } from '../store.ts'

export function pooledOpener(objects: ObjectStore, pool: SealPool): Opener {
  return async (chunk, options) => {
    const slot = await pool.acquire()
    try {
      await fetchSealed(objects, chunk, slot.bytes, options)
      const { id, key, pages, sealedBytes } = chunk
      await pool.run(slot, { kind: 'open', sealedBytes, chunk: { id, key, pages } })
      return { bytes: slot.bytes.subarray(0, pages * PAGE_BYTES), release: slot.release }
    } catch (error) {
      slot.release()
      throw error
    }
  }
}
