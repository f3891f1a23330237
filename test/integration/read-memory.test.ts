/** Memory is bounded by what was asked for, whatever is read: 64 readers of 64 snapshots, in a process of its own. */
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'
import { PAGE_BYTES } from '../../src/chunk.ts'
import { smallStore } from '../small-store.ts'

const SNAPSHOTS = 64
const IMAGE_BYTES = 8 * 2 ** 20
const MEMORY_BYTES = 32 * 2 ** 20
/** Above what the process had before it read: the arena, the slab (33 MiB), and as much again for buffers of zlib, OpenSSL and the heap. All images are 512 MiB. */
const GROWTH_BYTES_MAX = MEMORY_BYTES + 34 * 2 ** 20 + 96 * 2 ** 20

/** Pages that compress well and are different in every snapshot. */
function imageOf(snapshot: number): Buffer {
  const image = Buffer.alloc(IMAGE_BYTES)
  for (let page = 0; page < IMAGE_BYTES / PAGE_BYTES; page++) image.fill(`${snapshot} ${page} `, page * PAGE_BYTES, (page + 1) * PAGE_BYTES)
  return image
}

it('64 readers of 64 snapshots need no more of it than the bounds say', async () => {
  await using small = await smallStore()
  const ids: string[] = []
  for (let snapshot = 0; snapshot < SNAPSHOTS; snapshot++) {
    const stream = (async function* () {
      yield imageOf(snapshot)
    })()
    ids.push((await small.store.push({ layer: 'os', images: { memory: { kind: 'memory', stream } } })).id)
  }
  const script = join(import.meta.dirname, '../fault/readers-child.ts')
  const args = [script, small.url, join(small.dir, 'keys'), `${MEMORY_BYTES}`, ...ids]
  const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: 50_000 })
  const { chunksMax, chunks, grownBytes, readBytes } = JSON.parse(stdout)
  expect(readBytes).toBe(SNAPSHOTS * IMAGE_BYTES)
  expect([chunksMax, chunks]).toEqual([MEMORY_BYTES / 2 ** 19, MEMORY_BYTES / 2 ** 19])
  expect(grownBytes).toBeLessThan(GROWTH_BYTES_MAX)
})
