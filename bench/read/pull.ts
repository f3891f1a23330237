/** A whole image from a MinIO on the loopback interface, through empty caches on disk, against the bare client of `bench/s3` at its best. */
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { startMinio, withCredentials } from '../../test/servers/minio.ts'
import { loadLibrary } from '../built.ts'
import { type Bench, inTurns, type Section, timed } from '../harness.ts'
import { sha256Of, stageInputs } from '../peers/inputs.ts'
import { getAll, readAll } from '../s3/bare.ts'

const CONCURRENCIES = [16, 32] as const
const TARGET = 0.6

export async function pull(bench: Bench): Promise<readonly Section[]> {
  const { fn: path, what } = await stageInputs(bench)
  const minio = await startMinio()
  try {
    return await withCredentials(minio.credentials, async () => {
      const library = await loadLibrary(bench.smoke)
      const bucket = { ...minio, name: await minio.createBucket() }
      const url = `s3://${bucket.name}/kept/?endpoint=${bucket.endpoint}`
      const keyring = await library.createFileKeyring(join(bench.dir, 'pull-keys'))
      await library.initStore(url, { keyring })
      {
        await using store = await library.openStore(url, { keyring })
        await store.push({ layer: 'function', tag: 'fn:1', images: { memory: { path } } })
      }
      const wanted = await sha256Of(path)
      const objects = (await readAll(bucket, 'kept/')).filter(({ key }) => key.startsWith('roots/'))
      const largest = Math.max(...objects.map(({ body }) => body.length))
      let runs = 0
      const thaw = async (withDisk: boolean) => {
        // One folder a run: ext4 takes its time to create files where many were just deleted.
        const [into, folder] = [join(bench.dir, 'pulled'), join(bench.dir, `pull-cache-${++runs}`)]
        const run = await timed(async () => {
          await using cache = await library.createCache({
            memoryBytes: 0,
            disk: withDisk ? { path: folder, sizeBytes: 2 ** 32 } : undefined,
            thread: 'main',
          })
          await using store = await library.openStore(url, { keyring, cache })
          await using snapshot = await store.open('fn:1')
          await snapshot.pull(into)
        })
        if ((await sha256Of(join(into, 'memory'))) !== wanted) throw new Error('pulled other bytes than were pushed')
        await rm(into, { recursive: true })
        return run
      }
      const timings = await inTurns(
        [
          { name: 'thaw, memory only', run: () => thaw(false) },
          { name: 'thaw, empty disk cache', run: () => thaw(true) },
          ...CONCURRENCIES.map(concurrency => ({
            name: `bare, ${concurrency} at a time`,
            run: () => {
              const buffers = Array.from({ length: concurrency }, () => Buffer.alloc(largest))
              return timed(() => getAll(bucket, 'kept/', objects, buffers))
            },
          })),
        ],
        bench.runs,
      )
      const best = Math.min(...timings.slice(2).map(({ medianSeconds }) => medianSeconds))
      const share = (index: number): number => best / timings[index]!.medianSeconds
      return [
        {
          name: 'pull',
          title: `an image from MinIO through empty caches (${what})`,
          timings,
          goals: [
            { what: 'share of the bare client, memory only', value: share(0), bound: 'at least', target: TARGET },
            { what: 'share of the bare client, disk cache filled', value: share(1), bound: 'at least', target: TARGET },
          ],
          notes: [`${objects.length} objects`],
        },
      ]
    })
  } finally {
    await minio.stop()
  }
}
