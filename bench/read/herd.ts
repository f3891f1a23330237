/** 64 readers open one cold snapshot at once, and each reads all of it in an order of its own. */
import { createCache, openStore, type SnapshotStore } from '../../src/index.ts'
import type { Bench, Section } from '../harness.ts'
import { makeCourse } from './course.ts'

const READERS = 64
const CHUNKS = 200
const CHUNK_BYTES = 512 * 1024

export async function herd(bench: Bench): Promise<readonly Section[]> {
  const course = await makeCourse(bench, 'dense', bench.smoke ? 20 : CHUNKS)
  await using cache = await createCache({ memoryBytes: 2 ** 28, thread: 'main' })
  await using store = await openStore(course.url, { keyring: course.keyring, cache })
  const started = performance.now()
  await Promise.all(Array.from({ length: READERS }, (_, reader) => readAll(store, course.tag, reader)))
  const ms = performance.now() - started
  const { origin } = await cache.stats()
  const { length } = course.chunks
  return [
    {
      name: 'herd',
      title: `${READERS} readers of one cold snapshot of ${length} chunks`,
      timings: [],
      // One of the objects is the manifest.
      goals: [{ what: 'fetches a chunk', value: (origin.hits - 1) / length, bound: 'at most', target: 1 }],
      notes: [`${ms.toFixed(0)} ms in all; at most ${origin.underWayMax} fetches at a time`],
    },
  ]
}

async function readAll(store: SnapshotStore, tag: string, reader: number): Promise<void> {
  await using snapshot = await store.open(tag)
  const image = snapshot.image('memory')
  const chunks = image.sizeBytes / CHUNK_BYTES
  const page = Buffer.alloc(4096)
  for (let i = 0; i < chunks; i++) await image.readInto(page, ((i * 7 + reader * 13) % chunks) * CHUNK_BYTES)
}
