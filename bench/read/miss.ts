/** Misses of another thread, which the engine on its worker serves from a directory store: with an idle main thread, and with one that spins in blocks of 100 ms. */
import { createCache, openStore } from '../../src/index.ts'
import type { Bench, Section } from '../harness.ts'
import { type Course, makeCourse, quantile } from './course.ts'
import { startReader } from './reader.ts'

const CHUNKS = 300
const BLOCK_MS = 100

export async function miss(bench: Bench): Promise<readonly Section[]> {
  const course = await makeCourse(bench, 'dense', bench.smoke ? 20 : CHUNKS)
  const idle = await measure(course, false)
  const spinning = await measure(course, true)
  const show = (ms: Float64Array): string => [0.5, 0.9, 0.99].map(q => quantile(ms, q).toFixed(2)).join(', ')
  return [
    {
      name: 'miss',
      title: `${course.chunks.length} misses of another thread, from a directory store`,
      timings: [],
      goals: [{ what: 'ms a miss while main spins, median', value: quantile(spinning, 0.5), bound: 'at most', target: 1 }],
      notes: [`main spinning: p50, p90, p99 ${show(spinning)} ms`, `main idle: ${show(idle)} ms`],
    },
  ]
}

async function measure({ url, keyring, tag }: Course, spin: boolean): Promise<Float64Array> {
  await using cache = await createCache({ memoryBytes: 0 })
  await using store = await openStore(url, { keyring, cache })
  await using snapshot = await store.open(tag)
  const reading = startReader(cache, snapshot.image('memory'), { kind: 'misses' })
  let done = false
  const finished = reading.finally(() => {
    done = true
  })
  const spinner = (): void => {
    for (const until = performance.now() + BLOCK_MS; performance.now() < until; );
    if (!done) setImmediate(spinner)
  }
  if (spin) setImmediate(spinner)
  return await finished
}
