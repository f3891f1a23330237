/** Firecracker's API as the example calls it, against the stand-in: the order of a resume and a commit, and what is refused. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { FirecrackerApi } from '../../examples/firecracker/api.ts'
import { FirecrackerApiServer } from './firecracker-api.ts'

let dir: string
let server: FirecrackerApiServer
let api: FirecrackerApi
let diffs: string[]
let backends: string[]

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'thaw-api-'))
  diffs = []
  backends = []
  await writeFile(join(dir, 'state'), 'state')
  server = await FirecrackerApiServer.start({
    socket: join(dir, 'api.sock'),
    load: async backendPath => {
      backends.push(backendPath)
      return { diff: async (file, which) => diffs.push(`${which} ${file}`), [Symbol.asyncDispose]: async () => undefined }
    },
  })
  api = new FirecrackerApi(join(dir, 'api.sock'))
})

afterEach(async () => {
  await server[Symbol.asyncDispose]()
  await rm(dir, { recursive: true, force: true })
})

const load = (more: object = {}) => ({
  snapshot_path: join(dir, 'state'),
  mem_backend: { backend_type: 'Uffd' as const, backend_path: '/memory.sock' },
  ...more,
})
const create = (type: 'Full' | 'Diff') => ({
  snapshot_type: type,
  snapshot_path: join(dir, 'state.diff'),
  mem_file_path: join(dir, 'memory.diff'),
})

describe('the stand-in API', () => {
  it('loads, pauses and saves', async () => {
    const overrides = [{ iface_id: 'eth0', host_dev_name: 'tap7' }]
    await api.load(load({ track_dirty_pages: true, resume_vm: true, network_overrides: overrides, clock_realtime: true }))
    await api.pause()
    await api.create(create('Diff'))
    await api.create(create('Full'))
    expect(backends).toEqual(['/memory.sock'])
    expect(diffs).toEqual([`written ${join(dir, 'memory.diff')}`, `full ${join(dir, 'memory.diff')}`])
    expect(await readFile(join(dir, 'state.diff'), 'utf8')).not.toBe('state')
    expect(server.calls.map(({ method, path }) => `${method} ${path}`)).toEqual([
      'PUT /snapshot/load',
      'PATCH /vm',
      'PUT /snapshot/create',
      'PUT /snapshot/create',
    ])
  })

  it('saves resident pages where no log of dirty ones was asked for', async () => {
    await api.load(load())
    await api.create(create('Diff'))
    expect(diffs).toEqual([`resident ${join(dir, 'memory.diff')}`])
  })

  it.each([
    ['a member it does not know', { enable_magic: true }],
    ['a wrong type', { resume_vm: 'yes' }],
    ['an override without a device', { network_overrides: [{ iface_id: 'eth0' }] }],
    ['a backend of another kind', { mem_backend: { backend_type: 'Tape', backend_path: '/x' } }],
  ])('refuses %s', async (_, more) => {
    await expect(api.load(load(more))).rejects.toMatchObject({ code: 'UNAVAILABLE' })
    expect(backends).toEqual([])
  })

  it('refuses a second load, and to save a machine that runs or is not there', async () => {
    await expect(api.create(create('Full'))).rejects.toMatchObject({ code: 'UNAVAILABLE' })
    await expect(api.pause()).rejects.toMatchObject({ code: 'UNAVAILABLE' })
    await api.load(load({ resume_vm: true }))
    await expect(api.create(create('Full'))).rejects.toMatchObject({ code: 'UNAVAILABLE' })
    await expect(api.load(load())).rejects.toMatchObject({ code: 'UNAVAILABLE' })
    expect(diffs).toEqual([])
  })

  it('ends a call that is cancelled, and one that nobody answers', async () => {
    const reason = new Error('enough')
    await expect(api.load(load(), AbortSignal.abort(reason))).rejects.toBe(reason)
    await expect(new FirecrackerApi(join(dir, 'none.sock')).pause()).rejects.toMatchObject({ code: 'UNAVAILABLE' })
  })
})
