/** Mounts when something goes wrong: readers that are killed, stores that hang or fail, servers that die, mounts that others take off. Never zeroes, never a hang. */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, readdir, readFile, readlink, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { mount } from '../../src/frontend/fuse.ts'
import { PagerHandle } from '../../src/pager/handle.ts'
import { codeOfAsync } from '../code-of.ts'
import { randomImage } from '../small-store.ts'
import { isMounted, python, Served, start, told, until } from './fuse-mounted.ts'

const image = randomImage(1000)
/** A page of random bytes in a chunk of its own. */
const FAR = 800 * 4096
const CHILD = fileURLToPath(new URL('./fuse-child.ts', import.meta.url))

const READ_FAR = `
fd = os.open(args[0], os.O_RDONLY)
print('reads', flush=True)
print(os.pread(fd, 8, int(args[1])).hex())`
const MAP_FAR = `
fd = os.open(args[0], os.O_RDONLY)
mapped = mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ)
if len(args) > 2:
  signal.signal(signal.SIGALRM, lambda number, frame: print('rang', flush=True))
  signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
print('reads', flush=True)
at = int(args[1])
found = mapped[at:at + 8].hex()
signal.setitimer(signal.ITIMER_REAL, 0)
print(found)`
const bytesAt = (at: number): string => image.subarray(at, at + 8).toString('hex')

let served: Served

beforeEach(async () => {
  served = await Served.of({ memory: image })
})

afterEach(() => served[Symbol.asyncDispose]())

describe('while the store hangs', () => {
  it.each(['SIGKILL', 'SIGINT'] as const)('a reader ends by %s, and the others go on', async signal => {
    const { path, close } = await mountHere()
    served.gate.shut()
    // Python has a handler of its own for SIGINT.
    const plain = (code: string): string => `signal.signal(signal.SIGINT, signal.SIG_DFL)${code}`
    const programs = [python(plain(READ_FAR), path, FAR), python(plain(MAP_FAR), path, FAR)]
    await Promise.all(programs.map(({ said }) => said('reads')))
    await until(() => served.gate.waiting > 0)
    const other = python(READ_FAR, path, FAR)
    for (const { child } of programs) child.kill(signal)
    expect((await Promise.all(programs.map(({ ended }) => ended))).map(ended => ended.signal)).toEqual([signal, signal])
    served.gate.open()
    expect(await told(other)).toContain(bytesAt(FAR))
    await close()
  })

  it('a signal that is handled ends no read', async () => {
    const { path, close } = await mountHere()
    served.gate.shut()
    const program = python(MAP_FAR, path, FAR, 'alarm')
    await until(() => served.gate.waiting > 0)
    // Longer than the alarm, and than an interrupted thread is looked at again.
    await new Promise(resolve => setTimeout(resolve, 500))
    served.gate.open()
    expect(await told(program)).toContain(bytesAt(FAR))
    await close()
  })

  it('a killed reader ends though it had a signal before', async () => {
    const { path, close } = await mountHere()
    served.gate.shut()
    const { child, ended } = python(MAP_FAR, path, FAR, 'alarm')
    await until(() => served.gate.waiting > 0)
    await new Promise(resolve => setTimeout(resolve, 300))
    child.kill('SIGKILL')
    expect((await ended).signal).toBe('SIGKILL')
    await close()
  })

  it('a read is an error at its deadline, and is answered later', async () => {
    const { path, close } = await mountHere(500)
    served.gate.shut()
    expect(await told(python(READ_FAR, path, FAR))).toContain('EIO')
    expect((await python(MAP_FAR, path, FAR).ended).signal).toBe('SIGBUS')
    served.gate.open()
    expect(await told(python(READ_FAR, path, FAR))).toContain(bytesAt(FAR))
    await until(() => served.events.some(({ kind }) => kind === 'unreadable'))
    await close()
  })

  it('closing the restore ends all reads', async () => {
    const { path } = await mountHere()
    served.gate.shut()
    const reader = python(READ_FAR, path, FAR)
    const mapper = python(MAP_FAR, path, FAR)
    await Promise.all([reader, mapper].map(({ said }) => said('reads')))
    await until(() => served.gate.waiting > 0)
    await served.store.close()
    expect(await told(reader)).toMatch(/reads\n(EIO|ENOTCONN|ECONNABORTED)/)
    expect((await mapper.ended).signal).toBe('SIGBUS')
    expect(await isMounted(join(path, '..'))).toBe(false)
  })
})

it('an error of the store is an error of the read, and passes', async () => {
  const { path, close } = await mountHere()
  served.gate.code = 'NOT_FOUND'
  expect(await told(python(READ_FAR, path, FAR))).toContain('EIO')
  served.gate.open()
  expect(await told(python(READ_FAR, path, FAR))).toContain(bytesAt(FAR))
  const event = served.events.find(({ kind }) => kind === 'unreadable')
  expect(event).toMatchObject({ image: 'memory', page: FAR / 4096, code: 'NOT_FOUND' })
  await close()
})

describe('a mount', () => {
  it('that another takes off has ended', async () => {
    const mounted = await served.mount()
    expect(existsSync(join(mounted.path, 'memory'))).toBe(true)
    await told(start('umount', [mounted.path]))
    expect(await mounted.ended).toEqual({ reason: 'unmounted' })
    await mounted.close()
    expect(existsSync(mounted.path)).toBe(false)
    expect(served.events.at(-1)).toMatchObject({ kind: 'closed', path: mounted.path })
  })

  it('that is in use is taken off all the same', async () => {
    const mounted = await served.mount()
    const waits = `${MAP_FAR.replace("print('reads', flush=True)", "print('waits', flush=True)\nsys.stdin.readline()")}`
    const holder = python(waits, join(mounted.path, 'memory'), FAR)
    await holder.said('waits')
    await mounted.close()
    expect(await isMounted(mounted.path)).toBe(false)
    expect(existsSync(mounted.path)).toBe(false)
    holder.child.stdin!.write('\n')
    expect((await holder.ended).signal).toBe('SIGBUS')
  })

  it('needs an empty folder, and leaves one that was there', async () => {
    const dir = served.folder()
    await mkdir(dir)
    await writeFile(join(dir, 'file'), '')
    const restore = await served.restore()
    expect(await codeOfAsync(() => mount(restore, dir))).toBe('CONFLICT')
    expect(await codeOfAsync(() => mount(restore, join(dir, 'file')))).toBe('NOT_FOUND')
    expect(await codeOfAsync(() => mount(restore, ''))).toBe('TypeError')
    expect(await codeOfAsync(() => mount(restore, dir, { readAheadBytes: -1 }))).toBe('RangeError')
    await rm(join(dir, 'file'))
    const mounted = await mount(restore, dir)
    expect(await codeOfAsync(() => mount(restore, dir))).toBe('CONFLICT')
    await mounted.close()
    await mounted.close()
    expect(await readdir(dir)).toEqual([])
    await restore.close()
    expect(await codeOfAsync(() => mount(restore, served.folder()))).toBe('CLOSED')
  })

  it('is open in this process only, and in none that it started', async () => {
    const mounted = await served.mount()
    const holders: string[] = []
    for (const pid of await family()) {
      for (const fd of await readdir(`/proc/${pid}/fd`).catch(() => [])) {
        const target = await readlink(`/proc/${pid}/fd/${fd}`).catch(() => '')
        if (target === '/dev/fuse') holders.push(pid)
      }
    }
    expect(holders).toEqual([String(process.pid)])
    await mounted.close()
  })
})

/** This process and all that it started: other mounts of other tests may be there at the same time. */
async function family(): Promise<string[]> {
  const parents = new Map<string, string>()
  for (const pid of (await readdir('/proc')).filter(name => /^\d+$/.test(name))) {
    // The fourth field; the second is a name in brackets (proc_pid_stat(5)).
    const stat = await readFile(`/proc/${pid}/stat`, 'latin1').catch(() => '')
    parents.set(pid, stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1] ?? '')
  }
  const own = String(process.pid)
  const isOurs = (pid: string | undefined): boolean => pid === own || (pid !== undefined && isOurs(parents.get(pid)))
  return [...parents.keys()].filter(isOurs)
}

describe('a pager that dies', () => {
  afterEach(() => vi.restoreAllMocks())

  const descriptorsOfFuse = async (): Promise<number> => {
    const fds = await readdir('/proc/self/fd')
    const targets = await Promise.all(fds.map(fd => readlink(`/proc/self/fd/${fd}`).catch(() => '')))
    return targets.filter(target => target === '/dev/fuse').length
  }

  it('is an error for its readers, and the end of its mounts', async () => {
    const pagers = heldPagers()
    const mounted = await served.mount()
    served.gate.shut()
    const path = join(mounted.path, 'memory')
    const programs = [python(READ_FAR, path, FAR), python(MAP_FAR, path, FAR)]
    await Promise.all(programs.map(({ said }) => said('reads')))
    for (const pager of pagers) await pager.terminate()
    expect(await mounted.ended).toMatchObject({ reason: 'failed' })
    const [reader, mapper] = await Promise.all(programs.map(({ ended }) => ended))
    expect(reader!.stdout.toString()).toMatch(/reads\n(EIO|ENOTCONN|ECONNABORTED)/)
    expect(mapper!.signal).toBe('SIGBUS')
    expect(existsSync(mounted.path)).toBe(false)
    expect(await descriptorsOfFuse()).toBe(0)
  })

  it('takes what was not sent with it: what could be written to is committed no more', async () => {
    const pagers = heldPagers()
    const restore = await served.restore()
    await using mounted = await mount(restore, served.folder(), { writable: ['memory'] })
    for (const pager of pagers) await pager.terminate()
    await mounted.ended
    expect(served.events).toContainEqual(expect.objectContaining({ kind: 'damaged', image: 'memory' }))
    expect(await codeOfAsync(() => restore.commit())).toBe('CORRUPT')
    await restore.close()
  })

  it('before it has a mount leaves none, and closes nothing twice', async () => {
    heldPagers(pager => void pager.terminate())
    const restore = await served.restore()
    const dir = served.folder()
    expect(await codeOfAsync(() => mount(restore, dir))).toBe('CLOSED')
    expect(existsSync(dir)).toBe(false)
    expect(await descriptorsOfFuse()).toBe(0)
  })
})

it('a restore that is closed while it is mounted leaves no mount', async () => {
  const restore = await served.restore()
  const dir = served.folder()
  const making = codeOfAsync(async () => (await mount(restore, dir)).ended)
  await until(() => isMounted(dir))
  await restore.close()
  await making
  expect(existsSync(dir)).toBe(false)
})

describe('a server', () => {
  it('that is killed leaves errors to its readers, and no mount', async () => {
    const dir = served.folder()
    const server = start(process.execPath, [CHILD, served.small.url, join(served.small.dir, 'keys'), served.id, dir])
    await server.said('ready')
    expect(await told(python(READ_FAR, join(dir, 'memory'), 0))).toContain(bytesAt(0))
    server.child.stdin!.write('\n')
    await server.said('hangs')
    const programs = [python(READ_FAR, join(dir, 'memory'), FAR), python(MAP_FAR, join(dir, 'memory'), FAR)]
    await Promise.all(programs.map(({ said }) => said('reads')))
    server.child.kill('SIGKILL')
    const [reader, mapper] = await Promise.all(programs.map(({ ended }) => ended))
    expect(reader!.stdout.toString()).toMatch(/reads\n(EIO|ENOTCONN|ECONNABORTED)/)
    expect(mapper!.signal).toBe('SIGBUS')
    await until(async () => !(await isMounted(dir)))
  })

  it('finds what a server left that died without a guard', async () => {
    const dir = served.folder()
    const server = start(process.execPath, [CHILD, served.small.url, join(served.small.dir, 'keys'), served.id, dir])
    await server.said('ready')
    const guard = await guardOf(server.child.pid!)
    process.kill(guard, 'SIGSTOP')
    server.child.kill('SIGKILL')
    await server.ended
    expect(await isMounted(dir)).toBe(true)
    process.kill(guard, 'SIGKILL')
    const mounted = await mount(await served.restore(), dir)
    expect(await told(python(READ_FAR, join(dir, 'memory'), FAR))).toContain(bytesAt(FAR))
    await mounted.close()
    expect(await isMounted(dir)).toBe(false)
  })

  it('without the right to mount says so, and with a namespace of its own mounts', async () => {
    const asNobody = ['--reuid=65534', '--regid=65534', '--clear-groups']
    const { dir, url } = served.small
    await told(start('chown', ['-R', '65534:65534', dir]))
    const command = [process.execPath, CHILD, url, join(dir, 'keys'), served.id, served.folder()]
    const refused = start('setpriv', [...asNobody, ...command])
    refused.child.stdin!.end()
    expect((await refused.ended).stdout.toString().trim()).toBe('DENIED')
    const script = `"$@" & server=$!; for i in $(seq 300); do [ -e "${command.at(-1)}/memory" ] && break; sleep 0.1; done; sha256sum < "${command.at(-1)}/memory"; umount "${command.at(-1)}"; wait $server`
    const alone = start('setpriv', [
      ...asNobody,
      'unshare',
      '--user',
      '--map-root-user',
      '--mount',
      'bash',
      '-c',
      script,
      'bash',
      ...command,
    ])
    const { stdout, code } = await alone.ended
    expect(code).toBe(0)
    expect(stdout.toString()).toContain(createHash('sha256').update(image).digest('hex'))
    expect(stdout.toString()).toContain('ready')
    expect(stdout.toString()).toContain('closed')
  })
})

/** The pagers that front ends are given from now on. */
function heldPagers(before: (pager: PagerHandle) => void = () => undefined): PagerHandle[] {
  const held: PagerHandle[] = []
  const { startFrontEnd } = PagerHandle.prototype
  vi.spyOn(PagerHandle.prototype, 'startFrontEnd').mockImplementation(function (this: PagerHandle, ...args) {
    held.push(this)
    before(this)
    return startFrontEnd.apply(this, args)
  })
  return held
}

/** A restore that waits that long for a page, and its mount's file. */
async function mountHere(pageDeadlineMs?: number): Promise<{ readonly path: string; readonly close: () => Promise<void> }> {
  const mounted = await served.mount({}, { pageDeadlineMs })
  return { path: join(mounted.path, 'memory'), close: () => mounted.close() }
}

/** The child process that guards another. */
async function guardOf(pid: number): Promise<number> {
  const { stdout } = await start('pgrep', ['-P', String(pid), '-f', 'guard']).ended
  return Number(stdout.toString().trim())
}
