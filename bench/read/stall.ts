/** Five shards of which one hangs (SIGSTOP): first reads of chunks that all lie in L2, with and without the erasure code. */
import { createCache, openStore } from '../../src/index.ts'
import { type RedisServer, startMany, startRedis } from '../../test/servers/redis.ts'
import type { Bench, Section } from '../harness.ts'
import { type Course, makeCourse, quantile, readEach } from './course.ts'

const SHARDS = 5
const CHUNKS = 400

interface Measured {
  readonly name: string
  readonly all: Float64Array
  readonly stalled: Float64Array
  readonly missed: number
}

export async function stall(bench: Bench): Promise<readonly Section[]> {
  const course = await makeCourse(bench, 'dense', bench.smoke ? 20 : CHUNKS)
  const plain = await measure(course, false)
  const striped = await measure(course, true)
  const p99 = (values: Float64Array): number => quantile(values, 0.99)
  return [
    {
      name: 'stall',
      title: `${course.chunks.length} reads from ${SHARDS} shards, one of them hanging from the first`,
      timings: [],
      goals: [
        {
          what: 'p99 of striped reads, one shard hanging / none',
          value: p99(striped.stalled) / p99(striped.all),
          bound: 'at most',
          target: 1.5,
        },
        { what: 'striped reads that missed', value: striped.missed, bound: 'at most', target: 0 },
      ],
      notes: [plain, striped].flatMap(({ name, all, stalled, missed }) => [
        `${name}, all well: ${describe(all)}`,
        `${name}, one hanging: ${describe(stalled)}; ${missed} reads went to the store`,
      ]),
    },
  ]
}

async function measure(course: Course, erasure: boolean): Promise<Measured> {
  const shards = await startMany(SHARDS, () => startRedis({ maxmemory: '1gb' }))
  try {
    const urls = shards.map(({ url }) => url)
    const all = await readOnce(course, urls, erasure, undefined)
    const stalled = await readOnce(course, urls, erasure, shards[0])
    return { name: erasure ? 'striped 4 + 1' : 'plain shards', all: all.ms, stalled: stalled.ms, missed: stalled.missed }
  } finally {
    for (const shard of shards) process.kill(shard.pid, 'SIGCONT')
    await Promise.all(shards.map(shard => shard.stop()))
  }
}

/** One pass with connections that are there already. */
async function readOnce(
  { url, keyring, tag }: Course,
  urls: readonly string[],
  erasure: boolean,
  hanging: RedisServer | undefined,
): Promise<{ readonly ms: Float64Array; readonly missed: number }> {
  await using cache = await createCache({ memoryBytes: 0, l2: { mode: 'shards', urls, erasure }, thread: 'main' })
  await using store = await openStore(url, { keyring, cache })
  await store.warm(tag, { tiers: ['l2'] })
  await using snapshot = await store.open(tag)
  const before = (await cache.stats()).origin.hits
  if (hanging !== undefined) process.kill(hanging.pid, 'SIGSTOP')
  const ms = await readEach(snapshot.image('memory'))
  return { ms, missed: (await cache.stats()).origin.hits - before }
}

function describe(values: Float64Array): string {
  const [p50, p99, max] = [0.5, 0.99, 1].map(q => quantile(values, q).toFixed(2))
  return `p50 ${p50} ms, p99 ${p99} ms, longest ${max} ms`
}
