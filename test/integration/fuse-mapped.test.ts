/** What is written through mappings of a mount is the kernel's for a while: it is committed whole or not at all, never passed over, and never lost without a word. */
import { execFile } from 'node:child_process'
import { mkdir, readFile, rename } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { type Mount, mount } from '../../src/frontend/fuse.ts'
import type { Restore, RestoreOptions } from '../../src/restore.ts'
import { codeOfAsync } from '../code-of.ts'
import { randomImage } from '../small-store.ts'
import { type Program, python, pythonWithin, Served, until } from './fuse-mounted.ts'

const PAGE_BYTES = 4096
const PAGES = 512
const HOLE = 200
const image = randomImage(PAGES).fill(0, HOLE * PAGE_BYTES, (HOLE + 64) * PAGE_BYTES)

let served: Served

beforeAll(async () => {
  served = await Served.of({ memory: image, rootfs: image })
})
afterAll(() => served[Symbol.asyncDispose]())
beforeEach(() => {
  served.events.length = 0
})

/** Maps both images. Does what it is told in a line, and says so in one. */
const GUEST = `
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
fds = {name: os.open(os.path.join(args[0], name), os.O_RDWR) for name in ['memory', 'rootfs']}
maps = {name: mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE) for name, fd in fds.items()}
def store(name, page, count, text):
  for at in range(int(page), int(page) + int(count)): maps[name][at * 4096:at * 4096 + len(text)] = text.encode()
def write(name, page, text): return os.pwrite(fds[name], text.encode() * (4096 // len(text)), int(page) * 4096)
def sync(name):
  # As the kernel does by itself when memory is short: writes what is dirty, tells nobody, and drops what is clean.
  libc.sync_file_range(fds[name], ctypes.c_long(0), ctypes.c_long(0), 7)
  maps[name].madvise(mmap.MADV_DONTNEED)
  os.posix_fadvise(fds[name], 0, 0, os.POSIX_FADV_DONTNEED)
def flush(name): os.fsync(fds[name])
def read(name, page): return os.pread(fds[name], 5, int(page) * 4096).decode('latin1')
def punch(name, page, count):
  if libc.fallocate(fds[name], 3, ctypes.c_long(int(page) * 4096), ctypes.c_long(int(count) * 4096)): raise OSError(ctypes.get_errno(), '')
def seek(name, page): return (os.lseek(fds[name], int(page) * 4096, os.SEEK_DATA), os.lseek(fds[name], int(page) * 4096, os.SEEK_HOLE))
def run():
  n = 0
  while True:
    n += 1
    for name in maps: maps[name][0:8] = n.to_bytes(8, 'little')
    if n == 1000: print('running', flush=True)
for line in sys.stdin:
  call, *given = line.split()
  try: print('=', globals()[call](*given), flush=True)
  except OSError as error: print('=', errno.errorcode[error.errno], flush=True)`

class Guest implements AsyncDisposable {
  readonly restore: Restore
  readonly mount: Mount
  readonly program: Program
  #told = ''
  #answers = 0

  private constructor(restore: Restore, mount: Mount, within: readonly string[]) {
    this.restore = restore
    this.mount = mount
    this.program = pythonWithin(within, GUEST, mount.path)
    this.program.child.stdout!.on('data', (bytes: Buffer) => {
      this.#told += bytes
    })
  }

  /** @param within a program that runs the guest */
  static async of(options?: RestoreOptions, within: readonly string[] = [], path: string = served.folder()): Promise<Guest> {
    const restore = await served.restore(options)
    return new Guest(restore, await mount(restore, path, { writable: true }), within)
  }

  async tell(...words: readonly (string | number)[]): Promise<string> {
    const at = this.#answers++
    this.program.child.stdin!.write(`${words.join(' ')}\n`)
    const answer = () => this.#told.split('\n').slice(0, -1)[at]
    await until(() => answer() !== undefined || this.program.child.exitCode !== null)
    return answer()?.slice(2) ?? (await this.program.ended).stderr
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.program.child.kill('SIGKILL')
    await this.program.ended
    await this.restore.close()
  }
}

describe('what the overlay cannot take', () => {
  const full = { overlay: { sizeMax: 64 * PAGE_BYTES } }

  it('is an event, EIO for those pages, and the end of commits, of which the second one is no better', async () => {
    await using guest = await Guest.of(full)
    expect(await guest.tell('store', 'memory', 0, 256, 'WROTE')).toBe('None')
    await guest.tell('sync', 'memory')
    const answers = await Promise.all(Array.from({ length: 256 }, (_, page) => guest.tell('read', 'memory', page)))
    expect(new Set(answers.filter(answer => answer !== 'WROTE'))).toEqual(new Set(['EIO']))
    const lost = answers.flatMap((answer, page) => (answer === 'EIO' ? [page] : []))
    expect(lost.length).toBeGreaterThanOrEqual(256 - 64)
    const pagesOfEvents = served.events.flatMap(event =>
      event.kind === 'damaged' && event.image === 'memory' && event.code === 'NO_SPACE'
        ? Array.from({ length: event.count }, (_, i) => event.page + i)
        : [],
    )
    expect(pagesOfEvents.sort((a, b) => a - b)).toEqual(lost)
    for (let i = 0; i < 3; i++) await expect(guest.restore.commit()).rejects.toMatchObject({ code: 'CORRUPT', object: 'memory' })
    expect([await guest.tell('flush', 'memory'), await guest.tell('flush', 'memory')].includes('None')).toBe(false)
    expect(await guest.tell('read', 'rootfs', 3)).toBe(image.toString('latin1', 3 * PAGE_BYTES, 3 * PAGE_BYTES + 5))
    // Not all of a page; then all of it: that page is good again, the image is not.
    expect(await guest.tell('write', 'memory', lost[0]!, 'AGAIN')).toBe('EIO')
    for (let page = 0; page < 256; page++) if (!lost.includes(page)) await guest.tell('punch', 'memory', page, 1)
    expect(Number(await guest.tell('write', 'memory', lost[0]!, 'AGAI'))).toBe(PAGE_BYTES)
    expect([await guest.tell('read', 'memory', lost[0]!), await guest.tell('read', 'memory', lost[1]!)]).toEqual(['AGAIA', 'EIO'])
    expect(await codeOfAsync(() => guest.restore.commit())).toBe('CORRUPT')
  })

  it('may have a store to the same page forgotten, which is a loss', async () => {
    await using guest = await Guest.of(full)
    await guest.tell('store', 'memory', 80, 1, 'WROTE')
    for (let page = 0; page < 64; page++) await guest.tell('write', 'memory', page, 'good')
    expect(await guest.tell('write', 'memory', 80, 'more')).toBe('ENOSPC')
    await guest.tell('punch', 'memory', 0, 1)
    expect(await codeOfAsync(() => guest.restore.commit())).toBe('CORRUPT')
    expect(served.events.filter(({ kind }) => kind === 'damaged')).toMatchObject([{ image: 'memory', page: 80, count: 1 }])
  })

  it('and whose writer was told, is no loss', async () => {
    await using guest = await Guest.of(full)
    for (let page = 0; page < 64; page++) await guest.tell('write', 'memory', page, 'good')
    expect(await guest.tell('write', 'memory', 64, 'more')).toBe('ENOSPC')
    expect(await guest.tell('read', 'memory', 64)).toBe(image.toString('latin1', 64 * PAGE_BYTES, 64 * PAGE_BYTES + 5))
    const { counts } = await guest.restore.commit()
    expect(counts.ownBytes).toBe(64 * PAGE_BYTES)
    expect(served.events.filter(({ kind }) => kind === 'damaged')).toEqual([])
  })
})

describe('a mount that ends while it is in use', () => {
  it('by force damages what can be written to, for commits and for other front ends', async () => {
    await using guest = await Guest.of()
    await guest.tell('store', 'memory', 3, 1, 'WROTE')
    await promisify(execFile)('umount', ['-f', '-l', guest.mount.path])
    expect(await guest.mount.ended).toEqual({ reason: 'unmounted' })
    expect(served.events.filter(({ kind }) => kind === 'damaged').map(({ image }) => image)).toEqual(['memory', 'rootfs'])
    for (let i = 0; i < 2; i++) expect(await codeOfAsync(() => guest.restore.commit())).toBe('CORRUPT')
    expect(await codeOfAsync(() => mount(guest.restore, served.folder()))).toBe('CORRUPT')
  })

  it('by its closing is flushed, and damages what is written after that', async () => {
    await using guest = await Guest.of()
    await guest.tell('store', 'memory', 3, 1, 'WROTE')
    const [committed] = await Promise.allSettled([guest.mount.close().then(() => guest.restore.commit())])
    expect(committed).toMatchObject({ reason: { code: 'CORRUPT' } })
    expect(guest.restore.figures().overlay?.writtenPages).toBe(1)
  })

  it('is in use through another namespace too, and damaged', async () => {
    await using guest = await Guest.of({}, ['unshare', '--mount'])
    await guest.tell('store', 'memory', 3, 1, 'WROTE')
    await guest.mount.close()
    expect(await codeOfAsync(() => guest.restore.commit())).toBe('CORRUPT')
    expect(served.events.filter(({ kind }) => kind === 'damaged').map(({ image }) => image)).toEqual(['memory', 'rootfs'])
  })

  it('after it was taken off lazily is not flushed at its place, though another is there by now, and is damaged at its end', async () => {
    await using guest = await Guest.of()
    await guest.tell('store', 'memory', 3, 1, 'WROTE')
    await promisify(execFile)('umount', ['-l', guest.mount.path])
    expect(await codeOfAsync(() => guest.restore.commit())).toBe('CONFLICT')
    const other = await served.restore()
    await using _ = await mount(other, guest.mount.path, { writable: true })
    expect(await codeOfAsync(() => guest.restore.commit())).toBe('CONFLICT')
    await guest.mount.close()
    expect(await codeOfAsync(() => guest.restore.commit())).toBe('CORRUPT')
    expect((await other.commit()).counts.ownBytes).toBe(0)
  })

  it('is flushed where it is, if a folder above it was renamed', async () => {
    const folder = served.folder()
    await mkdir(folder)
    await using guest = await Guest.of({}, [], join(folder, 'mount'))
    await guest.tell('store', 'memory', 3, 1, 'WROTE')
    await rename(folder, served.folder())
    const { id } = await guest.restore.commit()
    await using child = await served.store.open(id)
    expect(Buffer.from(await child.image('memory').read(3 * PAGE_BYTES, 5)).toString()).toBe('WROTE')
  })

  it('is not damaged by those who only read', async () => {
    const restore = await served.restore()
    const mounted = await mount(restore, served.folder(), { writable: true })
    const reader = python(
      "fd = os.open(args[0], os.O_RDONLY)\nprint('open', flush=True)\nsys.stdin.readline()",
      join(mounted.path, 'memory'),
    )
    await reader.said('open')
    await mounted.close()
    await restore.commit()
    expect(served.events.filter(({ kind }) => kind === 'damaged')).toEqual([])
    reader.child.stdin!.end()
    await reader.ended
    await restore.close()
  })

  it('is not damaged when nobody uses it any more, and commits what arrived', async () => {
    await using guest = await Guest.of()
    await guest.tell('store', 'memory', 3, 1, 'WROTE')
    guest.program.child.kill('SIGKILL')
    await guest.program.ended
    const [, committed] = await Promise.all([guest.mount.close(), guest.restore.commit()])
    await using child = await served.store.open(committed.id)
    expect(Buffer.from(await child.image('memory').read(3 * PAGE_BYTES, 5)).toString()).toBe('WROTE')
    expect(served.events.filter(({ kind }) => kind === 'damaged')).toEqual([])
  })
})

describe('a commit', () => {
  it('of a guest that runs is refused', async () => {
    await using guest = await Guest.of()
    guest.program.child.stdin!.write('run\n')
    await guest.program.said('running')
    for (let i = 0; i < 3; i++) {
      const outcome = await guest.restore.commit().then(
        ({ id }) => id,
        ({ code }) => code,
      )
      if (outcome === 'CONFLICT') continue
      // It stood still meanwhile: then both images are of one moment.
      await using child = await served.store.open(outcome)
      const [a, b] = await Promise.all(
        ['memory', 'rootfs'].map(async name => Buffer.from(await child.image(name).read(0, 8)).readBigUInt64LE()),
      )
      expect(a! - b! <= 1n && a! >= b!).toBe(true)
    }
  })

  it.each(['store', 'write'])('is refused if the guest does one %s while another image is read', async how => {
    await using guest = await Guest.of()
    await guest.tell('store', 'memory', 3, 1, 'early')
    const before = (await Array.fromAsync(served.small.store.list())).length
    async function* duringIt(): AsyncGenerator<Uint8Array> {
      await (how === 'store' ? guest.tell('store', 'rootfs', 3, 1, 'later') : guest.tell('write', 'rootfs', 3, 'late'))
      yield new Uint8Array(PAGE_BYTES)
    }
    await expect(guest.restore.commit({ images: { first: { stream: duringIt() } } })).rejects.toMatchObject({
      code: 'CONFLICT',
      object: 'rootfs',
    })
    expect(await Array.fromAsync(served.small.store.list())).toHaveLength(before)
    const { id } = await guest.restore.commit()
    await using child = await served.store.open(id)
    expect(Buffer.from(await child.image('memory').read(3 * PAGE_BYTES, 5)).toString()).toBe('early')
    expect(Buffer.from(await child.image('rootfs').read(3 * PAGE_BYTES, 4)).toString()).toBe('late')
  })

  it('is ended by the end of its restore', async () => {
    await using guest = await Guest.of()
    await guest.tell('store', 'memory', 3, 1, 'early')
    const reading = Promise.withResolvers<void>()
    async function* endless(): AsyncGenerator<Uint8Array> {
      reading.resolve()
      for (;;) yield new Uint8Array(PAGE_BYTES)
    }
    const committing = guest.restore.commit({ images: { first: { stream: endless() } } })
    const ended = codeOfAsync(() => committing)
    await reading.promise
    await guest.restore.close()
    expect(await ended).toBe('CLOSED')
  })
})

describe('a file with pages that were not sent yet', () => {
  let guest: Guest
  beforeAll(async () => {
    guest = await Guest.of()
    await guest.tell('store', 'memory', HOLE + 30, 1, 'dirty')
  })
  afterAll(() => guest[Symbol.asyncDispose]())

  const at = (HOLE + 30) * PAGE_BYTES
  const expectDirty = (bytes: Uint8Array): void => expect(Buffer.from(bytes).toString('latin1', at, at + 5)).toBe('dirty')

  it('has no hole', async () => {
    expect(await guest.tell('seek', 'memory', HOLE)).toBe(`(${HOLE * PAGE_BYTES}, ${PAGES * PAGE_BYTES})`)
  })

  it.each([['cp'], ['cp', '--sparse=always'], ['qemu-img', 'convert', '-f', 'raw', '-O', 'raw'], ['tar']])(
    'is copied whole by %s %s',
    async (program, ...options) => {
      const copy = join(served.small.dir, 'copy')
      const path = join(guest.mount.path, 'memory')
      const args = program === 'tar' ? ['cSf', copy, '-C', guest.mount.path, 'memory'] : [...options, path, copy]
      await promisify(execFile)(program!, args)
      if (program === 'tar') {
        await promisify(execFile)('tar', ['xf', copy, '-C', served.small.dir])
        expectDirty(await readFile(join(served.small.dir, 'memory')))
      } else expectDirty(await readFile(copy))
    },
  )

  it('is pushed whole', async () => {
    const { id } = await served.small.store.push({ layer: 'os', images: { memory: { path: join(guest.mount.path, 'memory') } } })
    await using pushed = await served.store.open(id)
    expectDirty(await pushed.image('memory').read(0, PAGES * PAGE_BYTES))
  })

  it('that nobody can write to still tells its holes', async () => {
    await using readOnly = await served.mount()
    const seek =
      'fd = os.open(args[0], os.O_RDONLY)\nprint(os.lseek(fd, int(args[1]), os.SEEK_HOLE), os.stat(args[0]).st_blocks * 512 < os.stat(args[0]).st_size)'
    const { stdout } = await python(seek, join(readOnly.path, 'memory'), HOLE * PAGE_BYTES).ended
    expect(stdout.toString().trim()).toBe(`${HOLE * PAGE_BYTES} True`)
  })
})
