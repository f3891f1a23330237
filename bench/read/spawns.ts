/** Programs are started beside a full arena of 2 GiB, by a process whose other thread reads as a pager does: how long that thread waits at worst. Peer: the same, and nothing is started. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { createCache, openStore } from '../../src/index.ts'
import type { Bench, Section } from '../harness.ts'
import { makeCourse, quantile } from './course.ts'
import { startReader } from './reader.ts'

const ARENA_BYTES = 2 ** 31
const SMOKE_ARENA_BYTES = 2 ** 27
const WHILE_MS = 5000
const SMOKE_WHILE_MS = 200
/** Between two starts. */
const PAUSE_MS = 100

export async function spawns(bench: Bench): Promise<readonly Section[]> {
  const forMs = bench.smoke ? SMOKE_WHILE_MS : WHILE_MS
  const course = await makeCourse(bench, 'dense', bench.smoke ? 20 : 50)
  await using cache = await createCache({ memoryBytes: bench.smoke ? SMOKE_ARENA_BYTES : ARENA_BYTES })
  for (const segment of cache.engine.arena.segments) segment.fill(1)
  await using store = await openStore(course.url, { keyring: course.keyring, cache })
  await using snapshot = await store.open(course.tag)
  const image = snapshot.image('memory')
  await image.readInto(Buffer.alloc(image.sizeBytes), 0)
  const alone = await startReader(cache, image.share(), { kind: 'hits', ms: forMs })
  const reading = startReader(cache, image.share(), { kind: 'hits', ms: forMs })
  const started = await startPrograms(forMs)
  const beside = await reading
  return [
    {
      name: 'spawns',
      title: `4 KiB reads of another thread while ${started} programs are started, ${cache.engine.arena.slots / 2048} GiB of arena in use`,
      timings: [],
      goals: [{ what: 'ms, the longest read', value: quantile(beside, 1), bound: 'at most', target: 10 }],
      notes: [
        `p50 ${(quantile(beside, 0.5) * 1000).toFixed(1)} µs, p99.9 ${(quantile(beside, 0.999) * 1000).toFixed(1)} µs`,
        `nothing started: p99.9 ${(quantile(alone, 0.999) * 1000).toFixed(1)} µs, longest ${quantile(alone, 1).toFixed(2)} ms`,
      ],
    },
  ]
}

async function startPrograms(forMs: number): Promise<number> {
  let started = 0
  for (const until = performance.now() + forMs; performance.now() < until; started++) {
    await once(spawn('true', { stdio: 'ignore' }), 'exit')
    await sleep(PAUSE_MS)
  }
  return started
}
