/** Hits of a Redis over loopback, against a bare ioredis client that gets the same values and opens them by hand. */
import { Redis } from 'ioredis'
import { createCache, openStore } from '../../src/index.ts'
import { type RedisServer, startRedis } from '../../test/servers/redis.ts'
import { type Bench, inTurns, type Section, speedup, timed } from '../harness.ts'
import { openByHand } from './by-hand.ts'
import { type Content, type Course, makeCourse, quantile, readEach } from './course.ts'

const CHUNKS = 400
const TARGET = 1.6
/** Half of what AWS published for the same step ("On-demand Container Loading in AWS Lambda", USENIX ATC 2023: 2.75 ms). */
const HIT_MS_TARGET = 1.4

export async function l2(bench: Bench): Promise<readonly Section[]> {
  const server = await startRedis({ maxmemory: '2gb' })
  try {
    return [await compare(bench, server, 'dense'), await compare(bench, server, 'random')]
  } finally {
    await server.stop()
  }
}

async function compare(bench: Bench, server: RedisServer, content: Content): Promise<Section> {
  const course = await makeCourse(bench, content, bench.smoke ? 20 : CHUNKS)
  await using cache = await createCache({ memoryBytes: 0, l2: { urls: [server.url], timeoutMs: 5000 }, thread: 'main' })
  await using store = await openStore(course.url, { keyring: course.keyring, cache })
  await store.warm(course.tag, { tiers: ['l2'] })
  await using snapshot = await store.open(course.tag)
  const image = snapshot.image('memory')
  const fetched = (await cache.stats()).origin.hits
  let latest: Float64Array = new Float64Array()
  const client = new Redis(server.url)
  try {
    const timings = await inTurns(
      [
        { name: 'ioredis by hand', run: () => timed(() => byHand(client, course)) },
        {
          name: 'thaw',
          run: () =>
            timed(async () => {
              latest = await readEach(image)
            }),
        },
      ],
      bench.runs,
    )
    if ((await cache.stats()).origin.hits !== fetched) throw new Error('not all chunks were found in Redis')
    const p50 = quantile(latest, 0.5)
    return {
      name: `l2/${content}`,
      title: `${course.chunks.length} hits in Redis over loopback, ${content} pages`,
      timings,
      goals: [
        { what: 'thaw / by hand', value: speedup(timings, 'ioredis by hand', 'thaw'), bound: 'at most', target: TARGET },
        ...(content === 'random' ? [{ what: 'ms a hit, median', value: p50, bound: 'at most', target: HIT_MS_TARGET } as const] : []),
      ],
      notes: [`thaw: p50 ${p50.toFixed(3)} ms, p99 ${quantile(latest, 0.99).toFixed(3)} ms`],
    }
  } finally {
    client.disconnect()
  }
}

async function byHand(client: Redis, { chunks }: Course): Promise<void> {
  for (const chunk of chunks) {
    const sealed = await client.getBuffer(`thaw:${chunk.sealed.id}`)
    if (sealed === null) throw new Error('not there')
    openByHand(sealed, chunk)
  }
}
