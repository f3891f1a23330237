/**
 * Question: how much of what the S3 client can move does thaw leave?
 *
 * Workload: the function stage of a real guest, pushed to and pulled from a MinIO on the loopback interface; the bare client then moves the same objects, at 8, 16,
 * 32 and 64 at a time, and the best of these counts. Unit: seconds, in one process, in turns, opening the store or making the client included. thaw also reads the
 * image, seals and looks for chunks that are there, or opens and writes the file: that is what the ratio is about.
 *
 *     npm run build && node bench/s3.ts [--runs N] [--only push] [--json] [--save] [--smoke]
 */
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { formatBytes } from '../src/cli/format.ts'
import type { FileKeyring, SnapshotStore } from '../src/index.ts'
import { startMinio, withCredentials } from '../test/servers/minio.ts'
import { loadLibrary } from './built.ts'
import { type Bench, type Contestant, inTurns, type Run, runBench, type Section, type Timing, timed } from './harness.ts'
import { sha256Of, stageInputs } from './peers/inputs.ts'
import { type Bucket, deleteAll, getAll, putAll, readAll, type StoredObject } from './s3/bare.ts'

const CONCURRENCIES = [8, 16, 32, 64] as const
const TARGET = 0.6
const IMAGE = 'memory'
const TAG = 'fn:1'
/** Prefix of the objects that everybody moves. */
const KEPT = 'kept/'
/** Prefix of what a run writes and deletes again; no two run at once. */
const RUN = 'run/'

/** What all contestants work on. */
interface Course extends Bench {
  readonly library: typeof import('../src/index.ts')
  readonly bucket: Bucket
  readonly keyring: FileKeyring
  readonly image: string
  readonly sha256: string
  readonly what: string
}

async function s3(bench: Bench): Promise<readonly Section[]> {
  const { fn: image, what } = await stageInputs(bench)
  const minio = await startMinio()
  try {
    return await withCredentials(minio.credentials, async () => {
      const bucket: Bucket = { ...minio, name: await minio.createBucket() }
      const library = await loadLibrary(bench.smoke)
      const keyring = await library.createFileKeyring(join(bench.dir, 'keys'))
      return await compare({ ...bench, library, bucket, keyring, image, what, sha256: await sha256Of(image) })
    })
  } finally {
    await minio.stop()
  }
}

async function compare(course: Course): Promise<Section[]> {
  await initAt(course, KEPT)
  await push(course, KEPT)
  const objects = (await readAll(course.bucket, KEPT)).filter(({ key }) => key.startsWith('roots/'))
  const bytes = objects.reduce((sum, { body }) => sum + body.length, 0)
  const notes = [`${objects.length} objects, ${formatBytes(bytes)}`]
  const sections: Section[] = []
  for (const [name, contestants] of [
    ['push', [pushing(course), ...CONCURRENCIES.map(concurrency => putting(course, objects, concurrency))]],
    ['pull', [pulling(course), ...CONCURRENCIES.map(concurrency => getting(course, objects, concurrency))]],
  ] as const) {
    if (!course.wants(name)) continue
    course.note(name)
    const timings = await inTurns(contestants, course.runs)
    sections.push({ name, title: `${name} over loopback (${course.what})`, timings, goals: [goal(timings)], notes })
  }
  return sections
}

function goal([ours, ...bare]: readonly Timing[]): Section['goals'][number] {
  const best = Math.min(...bare.map(({ medianSeconds }) => medianSeconds))
  return { what: 'share of the bare client at its best', value: best / ours!.medianSeconds, bound: 'at least', target: TARGET }
}

function pushing(course: Course): Contestant {
  return {
    name: 'thaw',
    run: async () => {
      await initAt(course, RUN)
      return await thenEmpty(course, () => timed(() => push(course, RUN)))
    },
  }
}

function putting(course: Course, objects: readonly StoredObject[], concurrency: number): Contestant {
  return {
    name: `bare, ${concurrency} at a time`,
    run: () => thenEmpty(course, () => timed(() => putAll(course.bucket, RUN, objects, concurrency))),
  }
}

async function thenEmpty({ bucket, signal }: Course, work: () => Promise<Run>): Promise<Run> {
  signal.throwIfAborted()
  try {
    return await work()
  } finally {
    await deleteAll(bucket, RUN)
  }
}

function pulling(course: Course): Contestant {
  const { dir, signal, sha256 } = course
  const into = join(dir, 'pulled')
  return {
    name: 'thaw',
    run: async () => {
      const run = await timed(async () => {
        await using store = await openAt(course, KEPT)
        await using snapshot = await store.open(TAG, { signal })
        await snapshot.pull(into, { signal })
      })
      const found = await sha256Of(join(into, IMAGE))
      if (found !== sha256) throw new Error(`pulled other bytes than were pushed: ${found}, not ${sha256}`)
      await rm(into, { recursive: true })
      return run
    },
  }
}

function getting({ bucket, signal }: Course, objects: readonly StoredObject[], concurrency: number): Contestant {
  const largest = Math.max(...objects.map(({ body }) => body.length))
  const buffers = Array.from({ length: concurrency }, () => Buffer.alloc(largest))
  const expected = objects.reduce((sum, { body }) => sum + body.length, 0)
  return {
    name: `bare, ${concurrency} at a time`,
    run: async () => {
      signal.throwIfAborted()
      let bytes = 0
      const run = await timed(async () => {
        bytes = await getAll(bucket, KEPT, objects, buffers)
      })
      if (bytes !== expected) throw new Error(`the bare client got ${bytes} bytes of ${expected}`)
      return run
    },
  }
}

function urlOf({ bucket }: Course, prefix: string): string {
  return `s3://${bucket.name}/${prefix}?endpoint=${bucket.endpoint}`
}

async function initAt(course: Course, prefix: string): Promise<void> {
  await course.library.initStore(urlOf(course, prefix), { keyring: course.keyring, signal: course.signal })
}

function openAt(course: Course, prefix: string): Promise<SnapshotStore> {
  return course.library.openStore(urlOf(course, prefix), { keyring: course.keyring, signal: course.signal })
}

async function push(course: Course, prefix: string): Promise<void> {
  await using store = await openAt(course, prefix)
  await store.push({ layer: 'function', tag: TAG, images: { [IMAGE]: { path: course.image } } }, { signal: course.signal })
}

await runBench('s3', s3)
