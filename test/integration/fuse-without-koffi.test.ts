/** Mounts and NBD without koffi, served by the thread that asked for them: the bytes, the errors and the ends are those of a pager. */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import config from '../../rolldown.config.ts'
import { mount } from '../../src/frontend/fuse.ts'
import { randomImage } from '../small-store.ts'
import { type BuiltProgram, buildProgram } from './built-program.ts'
import { isMounted, type Program, python, Served, start, told, until } from './fuse-mounted.ts'
import { runWell } from './nbd-served.ts'

vi.mock('koffi', () => {
  throw new Error('koffi is not there')
})

const PAGE = 4096
const image = randomImage(1000)
const state = randomImage(3).subarray(0, 10_007)
/** A page of random bytes in a chunk of its own. */
const FAR = 800 * PAGE
const WITHOUT_KOFFI = ['--import', new URL('./without-koffi.ts', import.meta.url).href]
const CHILD = fileURLToPath(new URL('./fuse-child.ts', import.meta.url))
const hash = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

const SUM = `
fd = os.open(args[0], os.O_RDONLY)
sum = hashlib.sha256()
while True:
  bytes = os.read(fd, int(args[1]))
  if not bytes: break
  sum.update(bytes)
print(sum.hexdigest())`
const SUM_OF_MAPPING = `
fd = os.open(args[0], os.O_RDONLY)
print(hashlib.sha256(mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ)).hexdigest())`
/** Reads one page at once, and another when it is told to. */
const HOLD = `
fd = os.open(args[0], os.O_RDONLY)
os.pread(fd, 1, 0)
print('holds', flush=True)
sys.stdin.readline()
print(os.pread(fd, 8, ${FAR}).hex())`
const AT_ONCE = `
fd = os.open(args[0], os.O_RDONLY)
print('reads', flush=True)
print(os.pread(fd, 8, ${FAR}).hex())`
const FAR_BYTES = image.subarray(FAR, FAR + 8).toString('hex')
const NO_SERVER = /(EIO|ENOTCONN|ECONNABORTED)/

let served: Served

beforeEach(async () => {
  served = await Served.of({ memory: image, state })
})

afterEach(() => served[Symbol.asyncDispose]())

describe('a mount', () => {
  it('is there without koffi', async () => {
    await using mounted = await served.mount()
    expect(await told(python(SUM, join(mounted.path, 'memory'), 2 ** 20))).toBe(hash(image))
    expect(await readFile('/proc/self/maps', 'utf8')).not.toContain('koffi')
  })

  it('gives every byte, in reads and through mappings', async () => {
    await using mounted = await served.mount({ readAheadBytes: 2 ** 17 })
    for (const [name, bytes] of [['memory', image] as const, ['state', state] as const]) {
      const path = join(mounted.path, name)
      for (const size of [4097, 2 ** 22]) expect(await told(python(SUM, path, size))).toBe(hash(bytes))
      expect(await told(python(SUM_OF_MAPPING, path))).toBe(hash(bytes))
    }
    const direct = await start('dd', [`if=${join(mounted.path, 'memory')}`, 'bs=3M', 'iflag=direct', 'status=none']).ended
    expect(hash(direct.stdout)).toBe(hash(image))
  })

  it('takes what is written, in writes of any size and through mappings', async () => {
    await using mounted = await served.mount({ writable: ['memory'] })
    const path = join(mounted.path, 'memory')
    const writes = `
fd = os.open(args[0], os.O_RDWR)
size = os.fstat(fd).st_size
model = bytearray(os.pread(fd, size, 0))
mapped = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
random.seed(1)
for i in range(100):
  length = random.choice([1, 4096, 5000, 2500000])
  at = random.randrange(0, size - length)
  bytes = random.randbytes(length)
  model[at:at + length] = bytes
  if i % 2: mapped[at:at + length] = bytes
  else: assert os.pwrite(fd, bytes, at) == length
mapped.flush()
os.fsync(fd)
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
sys.stdout.buffer.write(model)`
    const { stdout: model, stderr } = await python(writes, path).ended
    expect(stderr).toBe('')
    expect(await told(python(SUM, path, 2 ** 20))).toBe(hash(model))
    expect(await told(python('os.open(args[0], os.O_RDWR)', join(mounted.path, 'state')))).toBe('EROFS')
    const refused = await start('dd', ['if=/dev/zero', `of=${path}`, 'bs=4096', `seek=${image.length / PAGE}`, 'count=1', 'conv=notrunc'])
      .ended
    expect(refused.code).toBe(1)
  })

  it('of several with many readers holds up no file of this process', async () => {
    const restore = await served.restore()
    const mounts = await Promise.all(Array.from({ length: 5 }, () => mount(restore, served.folder())))
    const copy = join(served.small.dir, 'source')
    await writeFile(copy, image)
    const reads = `
fd = os.open(args[0], os.O_RDONLY)
mapped = mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ)
copy = open(args[1], 'rb').read()
random.seed(int(args[2]))
for i in range(200):
  size = random.randrange(1, 300000) if i % 20 == 0 else random.randrange(1, 9000)
  at = random.randrange(0, len(copy))
  found = mapped[at:at + size] if i % 2 else os.pread(fd, size, at)
  assert found == copy[at:at + size], at
print('same')`
    let isDone = false
    const readers = mounts.flatMap(({ path }, index) =>
      [0, 1].map(half => told(python(reads, join(path, 'memory'), copy, index * 2 + half))),
    )
    const all = Promise.all(readers).finally(() => {
      isDone = true
    })
    let rounds = 0
    for (; !isDone || rounds === 0; rounds++) await Promise.all(Array.from({ length: 8 }, () => readFile(copy)))
    expect(new Set(await all)).toEqual(new Set(['same']))
    expect(rounds).toBeGreaterThan(1)
    await restore.close()
    for (const { path, ended } of mounts) {
      expect(await ended).toEqual({ reason: 'closed' })
      expect(existsSync(path)).toBe(false)
    }
  })

  it('tells errors of the store, never zeroes, and they pass', async () => {
    await using mounted = await served.mount()
    served.gate.code = 'NOT_FOUND'
    expect(await told(python(AT_ONCE, join(mounted.path, 'memory')))).toContain('EIO')
    expect(served.events).toContainEqual(expect.objectContaining({ kind: 'unreadable', page: FAR / PAGE, code: 'NOT_FOUND' }))
    served.gate.open()
    expect(await told(python(AT_ONCE, join(mounted.path, 'memory')))).toContain(FAR_BYTES)
  })

  it('lets a reader go that is killed while it waits, and others go on', async () => {
    await using mounted = await served.mount()
    served.gate.shut()
    const { child, ended } = python(AT_ONCE, join(mounted.path, 'memory'))
    await until(() => served.gate.waiting > 0)
    child.kill('SIGKILL')
    expect((await ended).signal).toBe('SIGKILL')
    served.gate.open()
    expect(await told(python(AT_ONCE, join(mounted.path, 'memory')))).toContain(FAR_BYTES)
  })
})

describe('the end of a mount', () => {
  it('is an error for those who wait, and for those who have files open', async () => {
    const mounted = await served.mount({ writable: true })
    const path = join(mounted.path, 'memory')
    const holder = python(HOLD, path)
    await holder.said('holds')
    served.gate.shut()
    const reader = python(AT_ONCE, path)
    await until(() => served.gate.waiting > 0)
    await mounted.close()
    expect(await mounted.ended).toEqual({ reason: 'closed' })
    expect(await isMounted(mounted.path)).toBe(false)
    expect(await told(reader)).toMatch(NO_SERVER)
    expect(await afterwards(holder)).toMatch(NO_SERVER)
    expect(await fuseDescriptors()).toBe(0)
  })

  it('comes by who takes it off', async () => {
    const mounted = await served.mount()
    await told(start('umount', [mounted.path]))
    expect(await mounted.ended).toEqual({ reason: 'unmounted' })
    expect(existsSync(mounted.path)).toBe(false)
    expect(await fuseDescriptors()).toBe(0)
  })

  it('comes in time for one that cannot be reached, and for its readers with their next read', async () => {
    const mounted = await served.mount()
    const holder = python(HOLD, join(mounted.path, 'memory'))
    await holder.said('holds')
    await told(start('umount', ['-l', mounted.path]))
    await mounted.close()
    expect(await afterwards(holder)).toMatch(NO_SERVER)
    await until(async () => (await fuseDescriptors()) === 0)
  })

  it('waits for a mount that is being made', async () => {
    const restore = await served.restore()
    const dir = served.folder()
    const making = mount(restore, dir).then(
      ({ ended }) => ended,
      () => undefined,
    )
    await until(() => isMounted(dir))
    await restore.close()
    await making
    expect(await isMounted(dir)).toBe(false)
    expect(await fuseDescriptors()).toBe(0)
  })
})

describe('a process', () => {
  it.each([
    ['exit', 7],
    ['throw', 1],
  ] as const)('that ends by %s leaves errors to its readers, and no mount', async (word, code) => {
    const { server, dir } = await startChild()
    const holder = python(HOLD, join(dir, 'memory'))
    await holder.said('holds')
    server.child.stdin!.write(word)
    expect((await server.ended).code).toBe(code)
    expect(await isMounted(dir)).toBe(false)
    expect(await afterwards(holder)).toMatch(NO_SERVER)
  })

  it('that exits while a reader waits does not wait for it', async () => {
    const { server, dir } = await startChild()
    server.child.stdin!.write('hang')
    await server.said('hangs')
    const reader = python(AT_ONCE, join(dir, 'memory'))
    await reader.said('reads')
    server.child.stdin!.write('exit')
    expect((await server.ended).code).toBe(7)
    expect(await told(reader)).toMatch(NO_SERVER)
    expect(await isMounted(dir)).toBe(false)
  })

  it('ends by itself when its mount is taken off', async () => {
    const { server, dir } = await startChild()
    await told(start('umount', [dir]))
    expect((await server.ended).code).toBe(0)
    expect(existsSync(dir)).toBe(false)
  })

  it('that is killed leaves errors to its readers, and what the next one at the folder takes off', async () => {
    const { server, dir } = await startChild()
    const holder = python(HOLD, join(dir, 'memory'))
    await holder.said('holds')
    server.child.kill('SIGKILL')
    await server.ended
    expect(await afterwards(holder)).toMatch(NO_SERVER)
    expect(await isMounted(dir)).toBe(true)
    await using mounted = await mount(await served.restore(), dir)
    expect(await told(python(SUM, join(mounted.path, 'memory'), 2 ** 20))).toBe(hash(image))
  })

  it('mounts in a namespace of its own, and exits there', async () => {
    const asNobody = ['--reuid=65534', '--regid=65534', '--clear-groups', 'unshare', '--user', '--map-root-user', '--mount']
    await told(start('chown', ['-R', '65534:65534', served.small.dir]))
    const dir = served.folder()
    const server = start('setpriv', [...asNobody, process.execPath, ...WITHOUT_KOFFI, ...childArguments(dir)])
    await server.said('ready')
    server.child.stdin!.write('exit')
    expect((await server.ended).code).toBe(7)
  })
})

describe('the program, built and installed without koffi', () => {
  let built: BuiltProgram

  beforeAll(async () => {
    const input = [config].flat()[0]!.input as Record<string, string>
    built = await buildProgram(input, ['commander', 'lru-cache', 'msgpackr'])
  })

  afterAll(() => built[Symbol.asyncDispose]())

  const thaw = (...args: readonly string[]): Program => {
    const { dir, url } = served.small
    const where = ['--store', url, '--keyring', join(dir, 'keys'), '--state-dir', join(dir, 'run'), '--overlay-dir', join(dir, 'overlays')]
    return start(process.execPath, [join(built.dist, 'cli.js'), ...args, ...where])
  }

  it.each(['SIGINT', 'SIGTERM'] as const)('mounts until %s', async signal => {
    const dir = served.folder()
    const server = thaw('mount', served.id, dir, '--writable')
    await server.said('ready')
    expect(await told(python(SUM, join(dir, 'memory'), 2 ** 20))).toBe(hash(image))
    server.child.kill(signal)
    expect((await server.ended).code).toBe(0)
    expect(await isMounted(dir)).toBe(false)
    expect(existsSync(dir)).toBe(false)
  })

  it('serves NBD until it is told to stop', async () => {
    const socket = join(served.small.dir, 'nbd.sock')
    const server = thaw('serve', 'nbd', served.id, 'memory', '--socket', socket)
    await server.said('ready')
    const copy = join(served.small.dir, 'copy')
    await runWell('nbdcopy', [`nbd+unix:///memory?socket=${socket}`, copy])
    expect(hash(await readFile(copy))).toBe(hash(image))
    server.child.kill('SIGINT')
    expect((await server.ended).code).toBe(0)
    expect(existsSync(socket)).toBe(false)
  })
})

/** What a program prints that is let on. */
async function afterwards({ child, ended }: Program): Promise<string> {
  child.stdin!.write('\n')
  return (await ended).stdout.toString()
}

function childArguments(dir: string): string[] {
  return [CHILD, served.small.url, join(served.small.dir, 'keys'), served.id, dir]
}

async function startChild(): Promise<{ readonly server: Program; readonly dir: string }> {
  const dir = served.folder()
  const server = start(process.execPath, [...WITHOUT_KOFFI, ...childArguments(dir)])
  await server.said('ready')
  return { server, dir }
}

/** Of this process. */
async function fuseDescriptors(): Promise<number> {
  const { stdout } = await start('find', [`/proc/${process.pid}/fd`, '-lname', '/dev/fuse']).ended
  return stdout.toString().split('\n').length - 1
}
