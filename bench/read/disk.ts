/** Hits of the disk cache, against reading the same files and opening them by hand. L1 memory holds 16 chunks, and every chunk is read once a pass: none is found there. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createCache, openStore } from '../../src/index.ts'
import { type Bench, inTurns, type Section, speedup, timed } from '../harness.ts'
import { openByHand } from './by-hand.ts'
import { type Content, type Course, makeCourse, readEach } from './course.ts'

const CHUNKS = 400
const TARGET = 1.6

export async function disk(bench: Bench): Promise<readonly Section[]> {
  return [await compare(bench, 'dense'), await compare(bench, 'random')]
}

async function compare(bench: Bench, content: Content): Promise<Section> {
  const course = await makeCourse(bench, content, bench.smoke ? 20 : CHUNKS)
  const path = join(bench.dir, `cache-${content}`)
  await using cache = await createCache({ memoryBytes: 0, disk: { path, sizeBytes: 2 ** 32 }, thread: 'main' })
  await using store = await openStore(course.url, { keyring: course.keyring, cache })
  await using snapshot = await store.open(course.tag)
  const image = snapshot.image('memory')
  await readEach(image)
  await cache.settled()
  const fetched = (await cache.stats()).origin.hits
  const timings = await inTurns(
    [
      { name: 'by hand', run: () => timed(() => byHand(course, path)) },
      { name: 'thaw', run: () => timed(() => readEach(image)) },
    ],
    bench.runs,
  )
  const { origin, disk } = await cache.stats()
  if (origin.hits !== fetched) throw new Error('not all chunks were found on disk')
  const { chunks } = course
  return {
    name: `disk/${content}`,
    title: `${chunks.length} hits on disk, ${content} pages`,
    timings,
    goals: [{ what: 'thaw / by hand', value: speedup(timings, 'by hand', 'thaw'), bound: 'at most', target: TARGET }],
    notes: [`thaw: ${((timings[1]!.medianSeconds / chunks.length) * 1e6).toFixed(0)} µs a chunk; ${disk?.hits} hits`],
  }
}

async function byHand({ chunks }: Course, path: string): Promise<void> {
  for (const chunk of chunks) {
    const { id } = chunk.sealed
    openByHand(await readFile(join(path, 'v1', id.slice(0, 2), id)), chunk)
  }
}
