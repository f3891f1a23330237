/**
 * examples/firecracker/resume.ts, from a snapshot in a store to a commit in it, with a stand-in for Firecracker: its API, and memory without a guest. What the README says beside it,
 * full and diff snapshots that are pushed, is done with the same machine.
 */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { FirecrackerApi } from '../../examples/firecracker/api.ts'
import { Workplace } from '../cli/program.ts'
import { codeOfAsync } from '../code-of.ts'
import { FirecrackerApiServer } from '../uffd/firecracker-api.ts'
import { STAMPED_BYTES, startVmm, type Vmm } from '../uffd/vmm.ts'
import { nothingIsLeftOf } from './leftovers.ts'

const EXAMPLE = join(import.meta.dirname, '../../examples/firecracker/resume.ts')
const PAGE_BYTES = 4096
const [WRITTEN_PAGE, REMOVED_PAGE] = [9, 20]
const STAMP = 0x5a

let place: Workplace
let image: Buffer

beforeAll(async () => {
  place = await Workplace.create()
  await place.mustRun('init')
  image = await place.writeImage('memory.img', 8)
  await writeFile(place.path('vm.state'), 'state of the machine')
  await place.mustRun('push', '--layer', 'os', '--tag', 'fc:1', 'memory=memory.img', 'state=vm.state')
})

afterAll(async () => {
  await place?.[Symbol.asyncDispose]()
})

function startExample(): ChildProcessWithoutNullStreams {
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith('THAW_'))
  const env = { ...Object.fromEntries(inherited), XDG_RUNTIME_DIR: place.folder }
  const args = [EXAMPLE, 'fc:1', '--api', 'api.sock', '--folder', 'jail/vm1', '--jail', 'jail', '--tap', 'eth0=tap7', '--commit', 'fc:2']
  return spawn(process.execPath, args, { cwd: place.folder, env })
}

/** Waits for a line that begins with `start`; rejects, with what the example said, if it ends before. */
async function line(example: ChildProcessWithoutNullStreams, start: string): Promise<void> {
  const said: string[] = []
  example.stderr.setEncoding('utf8').on('data', (text: string) => said.push(text))
  for await (const text of createInterface({ input: example.stdout })) if (text.startsWith(start)) return
  throw new Error(`the example ended before it said ${start}: ${said.join('')}`)
}

/** All of a snapshot's memory, and its state. */
async function pulled(ref: string): Promise<{ readonly memory: Buffer; readonly state: string }> {
  const folder = ref.replace(':', '-')
  await place.mustRun('pull', ref, folder)
  return { memory: await readFile(place.path(`${folder}/memory`)), state: await readFile(place.path(`${folder}/state`), 'utf8') }
}

it('resumes, and commits what the machine wrote; full and diff snapshots are the same when pushed', async () => {
  const loaded = Promise.withResolvers<Vmm>()
  // The paths in calls are those of the jail.
  const outside = (path: string) => join(place.folder, 'jail', path)
  await using api = await FirecrackerApiServer.start({
    socket: place.path('api.sock'),
    outside,
    load: async backend => {
      const regions = [{ sizeBytes: image.length, offsetBytes: 0 }]
      const vmm = await startVmm({ socket: backend, image: place.path('memory.img'), regions })
      loaded.resolve(vmm)
      return vmm
    },
  })
  const platform = new FirecrackerApi(place.path('api.sock'))
  const example = startExample()
  const exited = new Promise(resolve => example.once('exit', resolve))
  try {
    await line(example, 'Press Enter')
    const vmm = await loaded.promise
    expect(await vmm.verifyAll()).toMatchObject({ pages: image.length / PAGE_BYTES, wrong: 0 })
    await vmm.write(0, WRITTEN_PAGE, STAMP)
    await vmm.remove(0, REMOVED_PAGE, 2)
    const full = { snapshot_path: '/vm1/full.state', mem_file_path: '/vm1/full.memory', snapshot_type: 'Full' } as const
    expect(await codeOfAsync(() => platform.create(full))).toBe('UNAVAILABLE')
    await platform.pause()
    await platform.create(full)
    example.stdin.end('\n')
    example.stdout.resume()
    expect(await exited).toBe(0)
  } finally {
    example.kill('SIGTERM')
    await exited
  }
  const paused = ['PATCH /vm', 'PUT /snapshot/create']
  expect(api.calls.map(({ method, path }) => `${method} ${path}`)).toEqual([
    'PUT /snapshot/load',
    'PUT /snapshot/create',
    ...paused,
    ...paused,
  ])
  expect(api.calls[0]!.body).toMatchObject({
    snapshot_path: '/vm1/state',
    mem_backend: { backend_type: 'Uffd', backend_path: '/vm1/memory.sock' },
    network_overrides: [{ iface_id: 'eth0', host_dev_name: 'tap7' }],
  })

  image.fill(STAMP, WRITTEN_PAGE * PAGE_BYTES, WRITTEN_PAGE * PAGE_BYTES + STAMPED_BYTES)
  // What the guest gave back is zero in a commit, which the pager knows of, and in a full snapshot; a diff file alone does not tell.
  const child = Buffer.from(image).fill(0, REMOVED_PAGE * PAGE_BYTES, (REMOVED_PAGE + 2) * PAGE_BYTES)
  const committed = await pulled('fc:2')
  expect(committed.memory.equals(child)).toBe(true)
  expect(committed.state).toContain('saved Diff')
  expect((await place.document('verify', 'fc:2')).bad).toEqual([])

  await place.mustRun('push', '--layer', 'os', '--tag', 'fc:full', 'memory=jail/vm1/full.memory', 'state=jail/vm1/full.state')
  const full = await pulled('fc:full')
  expect(full.memory.equals(child)).toBe(true)
  expect(full.state).toContain('saved Full')

  const diffs = ['--diff', 'memory=jail/vm1/memory.diff', 'state=jail/vm1/state.diff']
  await place.mustRun('push', '--layer', 'os', '--parent', 'fc:1', '--inherit', '--tag', 'fc:diff', ...diffs)
  const diff = await pulled('fc:diff')
  expect(diff.memory.equals(image)).toBe(true)
  expect(diff.state).toContain('saved Diff')
})

it('leaves nothing', async () => {
  await nothingIsLeftOf(place.folder)
})
