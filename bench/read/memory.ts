/**
 * Reads of chunks in L1 memory: 4 KiB at random and 4 MiB in order on the main thread, and 4 KiB on a thread of their own while the process pushes the same image as a
 * new snapshot again and again. That thread reads every tenth of a millisecond, as guests' faults come, and not in a loop that takes a core for itself.
 */
import { join } from 'node:path'
import { createCache, openStore, type SnapshotImage } from '../../src/index.ts'
import { type Bench, inTurns, type Section } from '../harness.ts'
import { type Course, makeCourse, quantile } from './course.ts'
import { startReader } from './reader.ts'

const CHUNKS = 200
const READS = 200_000
const LARGE_BYTES = 4 * 2 ** 20
const LARGE_PASSES = 10
const WHILE_MS = 5_000

export async function memory(bench: Bench): Promise<readonly Section[]> {
  const course = await makeCourse(bench, 'dense', bench.smoke ? 20 : CHUNKS)
  await using cache = await createCache({ memoryBytes: 2 ** 28 })
  await using store = await openStore(course.url, { keyring: course.keyring, cache })
  await using snapshot = await store.open(course.tag)
  const image = snapshot.image('memory')
  const everything = Buffer.alloc(image.sizeBytes)
  await image.readInto(everything, 0)
  const reads = bench.smoke ? 1000 : READS
  const small = smallReads(image, reads)
  let large = 0
  const timings = await inTurns(
    [
      {
        name: `${LARGE_PASSES} passes, 4 MiB a read`,
        run: async () => {
          const started = performance.now()
          for (let pass = 0; pass < LARGE_PASSES; pass++) largeReads(image, everything)
          const seconds = (performance.now() - started) / 1000
          large = Math.max(large, (LARGE_PASSES * image.sizeBytes) / seconds / 1e9)
          return { seconds }
        },
      },
    ],
    bench.runs,
  )
  const elsewhere = await whilePushing(bench, course, image, cache)
  return [
    {
      name: 'memory',
      title: `tryReadInto of chunks in L1 memory (${course.chunks.length} of them)`,
      timings,
      goals: [
        { what: 'µs a 4 KiB read, median', value: small.p50Us, bound: 'at most', target: 1 },
        { what: 'bytes allocated a 4 KiB read', value: small.allocatedBytes, bound: 'at most', target: 1 },
        { what: 'GB/s in large reads', value: large, bound: 'at least', target: 5 },
        {
          what: 'ms a 4 KiB read of another thread, p99.9, while pushing',
          value: quantile(elsewhere.ms, 0.999),
          bound: 'at most',
          target: 0.2,
        },
      ],
      notes: [
        `4 KiB: p99 ${small.p99Us.toFixed(2)} µs`,
        `other thread: n ${elsewhere.ms.length}, p50 ${(quantile(elsewhere.ms, 0.5) * 1000).toFixed(2)} µs, p99 ${(quantile(elsewhere.ms, 0.99) * 1000).toFixed(1)} µs, ` +
          `longest ${quantile(elsewhere.ms, 1).toFixed(2)} ms; ${elsewhere.pushes} pushes meanwhile`,
      ],
    },
  ]
}

function smallReads(
  image: SnapshotImage,
  reads: number,
): { readonly p50Us: number; readonly p99Us: number; readonly allocatedBytes: number } {
  const page = Buffer.alloc(4096)
  const pages = image.sizeBytes / 4096
  const us = new Float64Array(reads)
  const readOne = (read: number): void => {
    if (image.tryReadInto(page, ((read * 7919) % pages) * 4096) !== 4096) throw new Error('not in memory')
  }
  for (let read = 0; read < reads; read++) {
    const started = performance.now()
    readOne(read)
    us[read] = (performance.now() - started) * 1000
  }
  // By itself: reading the clock allocates.
  const before = process.memoryUsage().heapUsed
  for (let read = 0; read < reads; read++) readOne(read)
  const allocatedBytes = Math.max(0, process.memoryUsage().heapUsed - before) / reads
  return { p50Us: quantile(us, 0.5), p99Us: quantile(us, 0.99), allocatedBytes }
}

function largeReads(image: SnapshotImage, target: Buffer): void {
  for (let at = 0; at < image.sizeBytes; at += LARGE_BYTES) {
    const bytes = Math.min(LARGE_BYTES, image.sizeBytes - at)
    if (image.tryReadInto(target.subarray(at, at + bytes), at) !== bytes) throw new Error('not in memory')
  }
}

async function whilePushing(
  { smoke, dir }: Bench,
  { keyring }: Course,
  image: SnapshotImage,
  cache: Awaited<ReturnType<typeof createCache>>,
): Promise<{ readonly ms: Float64Array; readonly pushes: number }> {
  const { initStore } = await import('../../src/index.ts')
  const until = performance.now() + (smoke ? 200 : WHILE_MS)
  const reader = startReader(cache, image.share(), { kind: 'hits', ms: smoke ? 200 : WHILE_MS })
  let pushes = 0
  const bytes = Buffer.alloc(image.sizeBytes)
  await image.readInto(bytes, 0)
  while (performance.now() < until) {
    const url = join(dir, `pushed-${pushes}`)
    await initStore(url, { keyring })
    await using store = await openStore(url, { keyring, cache })
    await store.push({ layer: 'os', images: { memory: { stream: pieces(bytes) } } })
    pushes++
  }
  return { ms: await reader, pushes }
}

async function* pieces(bytes: Buffer): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += 2 ** 20) yield bytes.subarray(at, at + 2 ** 20)
}
