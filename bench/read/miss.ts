/**
 * Misses of another thread, which the engine on its worker serves from a directory store: with an idle main thread, and with one that spins in blocks of 100 ms. The chunks are
 * those of a real guest's memory; L1 memory holds 16 of them, and each is read once.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { createCache, openStore } from '../../src/index.ts'
import type { Bench, Section } from '../harness.ts'
import { stageInputs } from '../peers/inputs.ts'
import { openByHand } from './by-hand.ts'
import { type Course, courseOf, joined, quantile, showQuantiles } from './course.ts'
import { startReader } from './reader.ts'

const BLOCK_MS = 100

export async function miss(bench: Bench): Promise<readonly Section[]> {
  const { fn, what } = await stageInputs(bench)
  const course = await courseOf(bench, fn)
  const runs = { byHand: [] as Float64Array[], idle: [] as Float64Array[], spinning: [] as Float64Array[] }
  for (let run = 0; run < bench.runs; run++) {
    runs.byHand.push(await byHand(course))
    runs.idle.push(await measure(course, false))
    runs.spinning.push(await measure(course, true))
  }
  const [alone, idle, spinning] = [joined(runs.byHand), joined(runs.idle), joined(runs.spinning)]
  const { length } = course.chunks
  return [
    {
      name: 'miss',
      title: `${length} misses of another thread, from a directory store (${what})`,
      timings: [],
      goals: [
        { what: 'ms a miss while main spins, median', value: quantile(spinning, 0.5), bound: 'at most', target: 1 },
        { what: 'while main is idle / by hand, medians', value: quantile(idle, 0.5) / quantile(alone, 0.5), bound: 'at most', target: 1.4 },
      ],
      notes: [
        `by hand, one thread, no queue, no engine: ${showQuantiles(alone)} ms`,
        `main spinning: ${showQuantiles(spinning)} ms`,
        `main idle: ${showQuantiles(idle)} ms`,
        `${bench.runs} passes each`,
      ],
    },
  ]
}

/** The least a miss can take: the file read, and opened, by the thread that wants it. */
async function byHand({ url, chunks }: Course): Promise<Float64Array> {
  const ms = new Float64Array(chunks.length)
  for (const [index, chunk] of chunks.entries()) {
    const started = performance.now()
    openByHand(await readFile(join(fileURLToPath(url), chunk.sealed.objectKey)), chunk)
    ms[index] = performance.now() - started
  }
  return ms
}

async function measure({ url, keyring, tag }: Course, spin: boolean): Promise<Float64Array> {
  await using cache = await createCache({ memoryBytes: 0 })
  await using store = await openStore(url, { keyring, cache })
  await using snapshot = await store.open(tag)
  let done = false
  const reading = startReader(cache, snapshot.image('memory').share(), { kind: 'misses' }).finally(() => {
    done = true
  })
  const spinner = (): void => {
    for (const until = performance.now() + BLOCK_MS; performance.now() < until; );
    if (!done) setImmediate(spinner)
  }
  if (spin) setImmediate(spinner)
  return await reading
}
