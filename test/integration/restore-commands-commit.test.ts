/** `thaw commit`, `ps` and `stats`: running restores are found, asked, and made into snapshots that are read back byte for byte. */
import { once } from 'node:events'
import { open, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { type Ended, ended, errorLine } from '../cli/program.ts'
import { withPages } from '../small-store.ts'
import { STAMPED_BYTES, startVmm } from '../uffd/vmm.ts'
import { python, until } from './fuse-mounted.ts'
import { runWell } from './nbd-served.ts'
import { PAGE, Pushed, type Serving } from './restore-commands.ts'

/** It takes seconds to seal them. */
const MIB_OF_IMAGE = 64

let pushed: Pushed
let names = 0

beforeAll(async () => {
  pushed = await Pushed.create()
})

beforeEach(() => rm(path('out'), { recursive: true, force: true }))

afterAll(() => pushed[Symbol.asyncDispose]())

const path = (name: string) => pushed.place.path(name)
const fresh = () => path(`n${++names}`)
const errorOf = (result: Ended) => JSON.parse(errorLine(result)).error
const mounted = (dir: string, ...args: string[]) => pushed.serve(['mount', 'base', dir, '--writable', ...args])
const commit = (serving: Serving, ...args: string[]) => pushed.place.document('commit', serving.id, ...args)
const listed = async () => (await pushed.place.mustRun('ls', '--json')).split('\n').map(line => JSON.parse(line).id)

async function write(file: string, page: number, byte: number, count = 1): Promise<void> {
  await using handle = await open(file, 'r+')
  await handle.write(Buffer.alloc(count * PAGE, byte), 0, undefined, page * PAGE)
}

/** That a snapshot is sound, and has these images. */
async function check(ref: unknown, images: Readonly<Record<string, Buffer>>): Promise<void> {
  expect(await pushed.place.document('verify', String(ref))).toMatchObject({ bad: [] })
  await pushed.place.mustRun('pull', String(ref), 'out')
  const wrong: string[] = []
  for (const [name, bytes] of Object.entries(images)) if (!(await readFile(path(`out/${name}`))).equals(bytes)) wrong.push(name)
  expect(wrong).toEqual([])
  expect(await readdir(path('out'))).toEqual(Object.keys(images).sort())
}

describe('commit of a mount', () => {
  it('answers with the members that a push answers with, and asks for an id that is not empty', async () => {
    await writeFile(path('tiny'), 'x')
    const push = await pushed.place.document('push', '--layer', 'os', 'tiny:blob=tiny')
    await using serving = await mounted(path('with\nnewline'))
    const { restore, ...result } = await commit(serving)
    expect(restore).toBe(serving.id)
    expect(Object.keys(result)).toEqual(Object.keys(push))
    expect(result).toMatchObject({ tag: null, tenant: null })
    const shown = await pushed.place.mustRun('ps')
    expect(shown.split('\n')).toHaveLength(2)
    expect(shown).toContain('with\\nnewline')
    const empty = await pushed.place.run('commit', '', '--json')
    expect([empty.code, errorOf(empty).code]).toEqual([2, 'USAGE'])
  })

  it('is a child with what was written, also by a mapping that was not flushed', async () => {
    const dir = fresh()
    await using serving = await mounted(dir)
    const guest = python(
      'm = mmap.mmap(os.open(args[0], os.O_RDWR), 0)\nm[4096 * 9:4096 * 11] = b"\\x99" * 8192\nprint("written", flush=True)\nsys.stdin.read()',
      join(dir, 'memory'),
    )
    await guest.said('written')
    await write(join(dir, 'rootfs'), 4, 0x44, 2)
    const result = await commit(serving, '--tag', 'child', '--label', 'by=test', '--layer', 'runtime')
    guest.child.stdin!.end()
    expect(result).toMatchObject({
      restore: serving.id,
      parent: pushed.id,
      layer: 'runtime',
      tag: { name: 'child' },
      counts: { ownBytes: 4 * PAGE },
    })
    const memory = withPages(pushed.memory, [
      [9, 0x99],
      [10, 0x99],
    ])
    const rootfs = withPages(pushed.rootfs, [
      [4, 0x44],
      [5, 0x44],
    ])
    await check('child', { memory, rootfs, state: pushed.state })
    expect(await pushed.place.document('inspect', 'child')).toMatchObject({
      id: result.id,
      details: { labels: { by: 'test' } },
      parent: pushed.id,
    })
    expect((await serving.stop()).code).toBe(0)
  })

  it('prints the id alone, takes images whole, goes on, and can be done again and to the child', async () => {
    const dir = fresh()
    await using serving = await mounted(dir, '--id', 'again')
    await write(join(dir, 'memory'), 1, 0x11)
    await writeFile(path('vm.state'), 'a new state')
    const first = await pushed.place.run('commit', 'again', 'state=vm.state')
    expect(first).toEqual({ code: 0, stdout: expect.stringMatching(/^[0-9a-f]{64}\n$/), stderr: '' })
    await write(join(dir, 'memory'), 2, 0x22)
    const second = await commit(serving)
    const memory = withPages(pushed.memory, [[1, 0x11]])
    await check(first.stdout.trim(), { memory, rootfs: pushed.rootfs, state: Buffer.from('a new state') })
    await check(second.id, { memory: withPages(memory, [[2, 0x22]]), rootfs: pushed.rootfs, state: pushed.state })
    expect(second.parent).toBe(pushed.id)

    const below = fresh()
    await using child = await pushed.serve(['mount', first.stdout.trim(), below, '--writable'])
    await write(join(below, 'memory'), 3, 0x33)
    const grandchild = await commit(child)
    expect(grandchild).toMatchObject({ parent: first.stdout.trim(), counts: { ownBytes: PAGE } })
    await check(grandchild.id, { memory: withPages(memory, [[3, 0x33]]), rootfs: pushed.rootfs, state: Buffer.from('a new state') })
  })

  it('to which the guest writes meanwhile is refused, and publishes nothing', async () => {
    const dir = fresh()
    await using serving = await mounted(dir)
    const guest = python(
      'fd = os.open(args[0], os.O_RDWR)\nprint("writes", flush=True)\nwhile True: os.pwrite(fd, os.urandom(4096), 4096 * random.randrange(500))',
      join(dir, 'memory'),
    )
    await guest.said('writes')
    const before = await listed()
    const result = await pushed.place.run('commit', serving.id, '--json', '--tag', 'torn')
    expect(errorOf(result)).toMatchObject({ code: 'CONFLICT', object: 'memory' })
    expect(result).toMatchObject({ code: 1, stdout: '' })
    expect(await listed()).toEqual(before)
    guest.child.kill('SIGKILL')
    await guest.ended
    await commit(serving)
    expect((await serving.stop()).code).toBe(0)
  })

  it('of which nothing was written is the same again', async () => {
    await using serving = await pushed.serve(['mount', 'base', fresh()])
    const result = await commit(serving)
    expect(result).toMatchObject({ parent: pushed.id, counts: { ownBytes: 0 } })
    await check(result.id, { memory: pushed.memory, rootfs: pushed.rootfs, state: pushed.state })
  })

  it('warns of an image that the parent has not', async () => {
    await using serving = await pushed.serve(['mount', 'base', fresh()])
    const { code, stderr } = await pushed.place.run('commit', serving.id, 'sate=state')
    expect(code).toBe(0)
    expect(errorLine({ code, stdout: '', stderr })).toContain('sate')
  })
})

describe('commit of a disk behind NBD', () => {
  it('has what its clients wrote', async () => {
    const socket = fresh()
    await using serving = await pushed.serve(['serve', 'nbd', 'base', 'rootfs', '--socket', socket, '--writable'])
    const changed = withPages(pushed.rootfs, [
      [0, 0x10],
      [200, 0x20],
    ])
    await writeFile(path('changed'), changed)
    await runWell('nbdcopy', [path('changed'), `nbd+unix:///?socket=${socket}`])
    const result = await commit(serving)
    // What was written is as it was in the parent, but for two pages.
    expect(result).toMatchObject({ counts: { ownBytes: 2 * PAGE } })
    await check(result.id, { memory: pushed.memory, rootfs: changed, state: pushed.state })
  })
})

describe('commit of memory behind userfaultfd', () => {
  it("has what the VMM's diff says, and zeros where the guest gave pages back", async () => {
    const socket = fresh()
    await using serving = await pushed.serve(['serve', 'uffd', 'base', 'memory', '--socket', socket])
    await using vmm = await startVmm({ socket, image: path('memory'), regions: [{ sizeBytes: pushed.memory.length, offsetBytes: 0 }] })
    await vmm.verify(0, 0, 100)
    await vmm.write(0, 5, 0x55)
    await vmm.remove(0, 20, 4)
    await vmm.write(0, 21, 0x66)
    await vmm.diff(path('written.diff'), 'written')
    const memory = Buffer.from(pushed.memory)
    memory.fill(0x55, 5 * PAGE, 5 * PAGE + STAMPED_BYTES)
    memory.fill(0, 20 * PAGE, 24 * PAGE)
    memory.fill(0x66, 21 * PAGE, 21 * PAGE + STAMPED_BYTES)
    const result = await commit(serving, '--diff', 'memory=written.diff')
    expect(result).toMatchObject({ counts: { ownBytes: 2 * PAGE } })
    await check(result.id, { memory, rootfs: pushed.rootfs, state: pushed.state })

    await vmm.diff(path('resident.diff'), 'resident')
    const refused = await pushed.place.run('commit', serving.id, '--diff', 'memory=resident.diff', '--json')
    expect([refused.code, errorOf(refused).code]).toEqual([2, 'USAGE'])
    const other = await commit(serving, '--diff', 'memory=resident.diff', '--diff-base', 'snapshot')
    expect(other).toMatchObject({ counts: { ownBytes: 2 * PAGE } })
    await check(other.id, { memory, rootfs: pushed.rootfs, state: pushed.state })
  })

  it('needs that diff, of the right size', async () => {
    const socket = fresh()
    await using serving = await pushed.serve(['serve', 'uffd', 'base', 'memory', '--socket', socket])
    const without = await pushed.place.run('commit', serving.id)
    expect(without).toMatchObject({ code: 2, stdout: '' })
    expect(errorLine(without)).toContain('--diff memory=FILE')
    await writeFile(path('short.diff'), '')
    await truncate(path('short.diff'), PAGE)
    const short = await pushed.place.run('commit', serving.id, '--diff', 'memory=short.diff', '--json')
    expect(errorOf(short).code).toBe('USAGE')
  })
})

describe('a commit that cannot be', () => {
  it('of a restore that is not there says where it looked', async () => {
    const result = await pushed.place.run('commit', 'nobody')
    expect(result.code).toBe(1)
    expect(errorLine(result)).toContain(path('thaw'))
  })

  it('is one of several that begin alike', async () => {
    await using one = await pushed.serve(['mount', 'base', fresh(), '--id', 'vm-1'])
    await using _ = await pushed.serve(['mount', 'base', fresh(), '--id', 'vm-12'])
    expect(errorOf(await pushed.place.run('commit', 'vm-', '--json'))).toMatchObject({ code: 'CONFLICT', object: 'vm-' })
    expect(await pushed.place.document('commit', 'vm-12')).toMatchObject({ restore: 'vm-12' })
    expect(await pushed.place.document('commit', 'vm-1')).toMatchObject({ restore: one.id })
  })

  describe('of one that runs', () => {
    let serving: Serving
    let before: readonly string[]
    beforeAll(async () => {
      serving = await pushed.serve(['mount', 'base', fresh()])
      before = await listed()
    })
    afterAll(() => serving[Symbol.asyncDispose]())

    it.each<readonly [string, number, readonly string[]]>([
      ['USAGE', 2, ['state']],
      ['USAGE', 2, ['state=-']],
      ['USAGE', 2, ['state=state', 'state=memory']],
      ['USAGE', 2, ['--diff', 'other=memory']],
      ['USAGE', 2, ['--diff', 'memory=memory', 'memory=memory']],
      ['USAGE', 2, ['--label', 'x']],
      ['USAGE', 2, ['--tag', 'A Tag']],
      ['USAGE', 2, ['--layer', 'other']],
      ['USAGE', 2, ['--prime']],
      ['NOT_FOUND', 1, ['state=nowhere']],
      ['NOT_FOUND', 1, ['--diff', 'memory=nowhere']],
    ])('is %s, exit code %d: %j', async (code, exitCode, args) => {
      const result = await pushed.place.run('commit', serving.id, ...args, '--json')
      expect(errorOf(result).code).toBe(code)
      expect(result).toMatchObject({ code: exitCode, stdout: '' })
    })

    it('has published nothing by then', async () => {
      expect(await listed()).toEqual(before)
    })
  })
})

describe('a commit in the middle', () => {
  let before: unknown[]

  beforeEach(async () => {
    // Another one each time: what is there already is not stored again.
    await pushed.place.writeImage('large', MIB_OF_IMAGE)
    before = await listed()
  })

  const stored = async () => (await readdir(path('thaw-store'), { recursive: true })).length

  /** Stores chunks already, and is not done for long. */
  async function underWay(serving: Serving) {
    const count = await stored()
    const child = pushed.place.start(['commit', serving.id, 'extra=large', '--tag', 'large', '--json'])
    child.stdin.end()
    const result = ended(child)
    await until(async () => (await stored()) > count || child.exitCode !== null)
    return { child, result }
  }

  it('ends by Ctrl-C, and the restore goes on', async () => {
    const dir = fresh()
    await using serving = await mounted(dir)
    const work = await underWay(serving)
    work.child.kill('SIGINT')
    const result = await work.result
    expect(result).toMatchObject({ code: 130, stdout: '' })
    expect(errorOf(result).code).toBe('INTERRUPTED')
    await write(join(dir, 'memory'), 0, 1)
    const memory = withPages(pushed.memory, [[0, 1]])
    const { id } = await commit(serving)
    await check(id, { memory, rootfs: pushed.rootfs, state: pushed.state })
    expect(await listed()).toHaveLength(before.length + 1)
  })

  it.each([
    ['SIGTERM', 0],
    ['SIGKILL', null],
  ] as const)('fails when its restore ends by %s', async (signal, code) => {
    await using serving = await mounted(fresh())
    const work = await underWay(serving)
    expect((await serving.stop(signal)).code).toBe(code)
    const result = await work.result
    expect(result).toMatchObject({ code: 1, stdout: '' })
    expect(['CLOSED', 'UNAVAILABLE']).toContain(errorOf(result).code)
    expect(await listed()).toEqual(before)
  })
})

describe('ps and stats', () => {
  it('show restores, until they end', async () => {
    const [dir, socket] = [fresh(), fresh()]
    await using one = await mounted(dir, '--id', 'shown')
    await using two = await pushed.serve(['serve', 'nbd', 'base', 'rootfs', '--socket', socket])
    await write(join(dir, 'memory'), 0, 1, 3)
    const table = await pushed.place.mustRun('ps')
    expect(table).toMatch(new RegExp(`^shown +${pushed.id.slice(0, 12)} .* ${one.pid} .* 12 KiB  fuse ${dir}$`, 'm'))
    expect(table).toMatch(new RegExp(`^${two.id} .* ${two.pid} .*  nbd rootfs ${socket}$`, 'm'))
    const documents = (await pushed.place.mustRun('ps', '--json')).split('\n').map(line => JSON.parse(line))
    expect(documents).toHaveLength(2)
    expect(documents.find(({ id }) => id === 'shown')).toMatchObject({
      schema: 1,
      pid: one.pid,
      snapshot: pushed.id,
      frontEnds: [{ kind: 'fuse', path: dir }],
      overlay: { writtenPages: 3 },
    })
    const { processes } = await pushed.place.document('stats')
    expect(processes).toMatchObject([one.pid, two.pid].sort((a, b) => a - b).map(pid => ({ pid, answered: true })))
    expect(await pushed.place.mustRun('stats')).toMatch(/^restore shown\nIMAGE .*\nmemory /m)
    await one.stop()
    await two.stop()
    expect(await pushed.place.run('ps')).toMatchObject({ code: 0, stdout: '', stderr: expect.stringContaining(path('thaw')) })
  })

  it('forget what was killed', async () => {
    await using serving = await pushed.serve(['mount', 'base', fresh()])
    await serving.stop('SIGKILL')
    expect(await readdir(path('thaw'))).toHaveLength(1)
    expect(await pushed.place.mustRun('ps', '--json')).toBe('')
    expect(await readdir(path('thaw'))).toEqual([])
  })

  it('say who does not answer', async () => {
    await using serving = await pushed.serve(['mount', 'base', fresh()])
    const silent = createServer(() => undefined).listen(path('thaw/4242-0a.sock'))
    await once(silent, 'listening')
    try {
      const result = await pushed.place.run('ps')
      expect(result).toMatchObject({ code: 0, stdout: expect.stringContaining(serving.id) })
      expect(errorLine(result)).toContain('4242')
      expect(await commit(serving)).toMatchObject({ parent: pushed.id })
    } finally {
      silent.closeAllConnections()
      silent.close()
    }
  })
})
