/**
 * The reason why thaw exists: a real guest, captured after boot, runtime and function and pushed as three layers to a real MinIO, is resumed from there by processes that start
 * with empty caches; more than once, at once, committed, and resumed from the commit.
 */
import { readFile } from 'node:fs/promises'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { cachedGuest } from '../../bench/guest/cached.ts'
import { type GuestCapture, resumeMachine, type Stage } from '../../bench/guest/capture.ts'
import { createCache, fileKeyring, mount, openStore } from '../../src/index.ts'
import { Workplace } from '../cli/program.ts'
import { type Minio, startMinio } from '../servers/minio.ts'
import { nothingIsLeftOf } from './leftovers.ts'
import { answerTo, RestoredGuest, THAW_EXEC } from './restored-guest.ts'

const FUNCTION = 'table:1'
const MEMORY_BYTES = 128 * 2 ** 20
/** A resume fetches about a third of the chunks; where huge pages are advised, more than four fifths. */
const FEW = 0.6

let minio: Minio
let place: Workplace
let capture: GuestCapture
let url: string
/** The function's. */
let snapshot: string

beforeAll(async () => {
  minio = await startMinio()
  vi.stubEnv('AWS_ACCESS_KEY_ID', minio.credentials.accessKeyId)
  vi.stubEnv('AWS_SECRET_ACCESS_KEY', minio.credentials.secretAccessKey)
  url = `s3://${await minio.createBucket()}/guests?endpoint=${minio.endpoint}`
  capture = await cachedGuest()
  place = await Workplace.create()
  await place.mustRun('init', '--store', url)
  await push('os', '--layer', 'os', '--tag', 'linux:6')
  await push('rt', '--layer', 'runtime', '--parent', 'linux:6', '--tag', 'python:3')
  snapshot = await push('fn', '--layer', 'function', '--tenant', 'acme', '--create-tenant', '--parent', 'python:3', '--tag', FUNCTION)
})

afterAll(async () => {
  await place?.[Symbol.asyncDispose]()
  vi.unstubAllEnvs()
  await minio?.stop()
})

const push = (stage: Stage, ...args: string[]): Promise<string> =>
  place.mustRun('push', ...args, `memory=${capture.images[stage]}`, `state=${capture.states[stage]}`)

const resume = (ref: string, dir: string, launcher?: readonly string[]): Promise<RestoredGuest> =>
  RestoredGuest.mounted(place, ref, dir, { capture, ...(launcher && { launcher }) })

/** What the kernel says of QEMU's mapping of the guest's memory (proc(5), smaps), by name. */
async function memoryMapping({ machine, dir }: RestoredGuest): Promise<Readonly<Record<string, string>>> {
  const smaps = await readFile(`/proc/${machine.pid}/smaps`, 'utf8')
  const mappings = smaps.split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)
  const mapping = mappings.find(text => text.split('\n', 1)[0]!.endsWith(`${dir}/memory`))
  return Object.fromEntries([...mapping!.matchAll(/^(\w+):\s+(.*?)\s*$/gm)].map(([, name, value]) => [name, value]))
}

/** Chunks of which a snapshot's memory is made. */
async function memoryChunks(ref: string): Promise<number> {
  const { details } = (await place.document('inspect', ref)) as { details: { images: { name: string; chunks: number }[] } }
  return details.images.find(({ name }) => name === 'memory')!.chunks
}

describe('two guests of one snapshot at once', () => {
  let one: RestoredGuest
  /** Started without `thaw exec`, which is right too, and slower. */
  let two: RestoredGuest

  beforeAll(async () => {
    one = await resume(FUNCTION, 'one')
    two = await resume(FUNCTION, 'two', [])
  })

  afterAll(async () => {
    await one?.[Symbol.asyncDispose]()
    await two?.[Symbol.asyncDispose]()
  })

  it('answer right, from a small part of their memory', async () => {
    expect(await one.machine.request('call', '7')).toBe(answerTo('7'))
    expect(await two.machine.request('call', '59999')).toBe(answerTo('59999'))
    const { chunks, failures } = await one.serving.stats('memory')
    expect({ failures, disk: chunks.disk, l2: chunks.l2 }).toEqual({ failures: 0, disk: 0, l2: 0 })
    expect(chunks.origin).toBeGreaterThan(10)
    expect(chunks.origin).toBeLessThan((await memoryChunks(FUNCTION)) * FEW)
  })

  it('have memory for which huge pages are advised, and under thaw exec are not', async () => {
    expect(await memoryMapping(one)).toMatchObject({ AnonHugePages: '0 kB', VmFlags: expect.not.stringMatching(/\bhg\b/) })
    expect(await memoryMapping(two)).toMatchObject({ VmFlags: expect.stringMatching(/\bhg\b/) })
  })

  it.each(['generation', 'random', 'pseudorandom'] as const)('differ in what is drawn: %s', async request => {
    const [a, b] = await Promise.all([one, two].map(({ machine }) => machine.request(request, '32')))
    expect(a).toMatch(/^([0-9a-f]{64}|[0-9a-f-]{36})$/)
    expect(a).not.toBe(b)
  })

  it('keep what they were told to themselves', async () => {
    await one.machine.request('remember', 'apple')
    await two.machine.request('remember', 'pear')
    await one.machine.request('touch', '4')
    expect(await one.machine.request('recall')).toBe('apple')
    expect(await two.machine.request('recall')).toBe('pear')
  })

  it('live on in a commit, and beside it', async () => {
    await one.save('one.state')
    const commit = await place.mustRun('commit', one.serving.restore, 'state=one.state', '--tag', 'table:told')
    expect(await place.document('verify', 'table:told')).toMatchObject({ id: commit, opened: true, bad: [] })
    expect(await place.document('inspect', commit)).toMatchObject({ layer: 'function', parent: snapshot })
    await using child = await resume('table:told', 'child')
    expect(await child.machine.request('recall')).toBe('apple')
    expect(await child.machine.request('call', '12')).toBe(answerTo('12'))
    expect(await two.machine.request('recall')).toBe('pear')
    expect(await child.machine.request('generation')).not.toBe(await two.machine.request('generation'))
  })
})

describe('the library', () => {
  it('resumes a guest and commits it within one process', async () => {
    await using cache = await createCache({ memoryBytes: MEMORY_BYTES })
    await using store = await openStore(url, { cache, keyring: await fileKeyring(place.path('thaw.keys')) })
    await using opened = await store.open(FUNCTION)
    await using restore = await opened.restore({ overlay: { dir: place.path('overlays') } })
    await using mounted = await mount(restore, place.path('here'), { writable: true })
    const paths = { memory: `${mounted.path}/memory`, state: `${mounted.path}/state` }
    await using machine = await resumeMachine({ dir: capture.dir, ...paths, launcher: THAW_EXEC })
    expect(await machine.request('call', '7')).toBe(answerTo('7'))
    // What others were told and committed is not in the snapshot.
    expect(await machine.request('recall')).toBe('')
    await machine.request('remember', 'plum')
    await machine.save(place.path('here.state'))
    await machine.close()
    const state = { kind: 'blob', path: place.path('here.state') } as const
    const { id, counts, tag } = await restore.commit({ images: { state }, tag: 'table:here' })
    expect(tag).toMatchObject({ name: 'table:here', tenant: 'acme', snapshot: id })
    expect(counts.ownBytes).toBeLessThan(MEMORY_BYTES / 2)
    expect(await store.verify(id)).toMatchObject({ opened: true, bad: [] })
  })
})

describe('the end', () => {
  it('leaves nothing', async () => {
    await nothingIsLeftOf(place.folder)
  })
})
