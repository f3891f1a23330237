/** Files of a mount, read through a real kernel in every way there is, against the bytes that were pushed. */
import { createHash, randomBytes } from 'node:crypto'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Mount, mount } from '../../src/frontend/fuse.ts'
import { randomImage } from '../small-store.ts'
import { python, Served, start, told } from './fuse-mounted.ts'

const PAGES = 3000
const PAGE_BYTES = 4096
const images = { memory: randomImage(PAGES), state: randomBytes(10_007), empty: Buffer.alloc(2 ** 20) }
const hash = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

let served: Served
let mounted: Mount
const file = (name: string): string => join(mounted.path, name)

beforeAll(async () => {
  served = await Served.of(images)
  mounted = await served.mount()
})

afterAll(() => served[Symbol.asyncDispose]())

const SUM_OF_READS = `
fd = os.open(args[0], os.O_RDONLY)
size = int(args[1])
sum = hashlib.sha256()
while True:
  bytes = os.read(fd, size)
  if not bytes: break
  sum.update(bytes)
print(sum.hexdigest())`

describe('reading', () => {
  it.each([4096, 4097, 100_003, 2 ** 22])('gives every byte in reads of %i', async size => {
    for (const [name, bytes] of Object.entries(images)) expect(await told(python(SUM_OF_READS, file(name), size))).toBe(hash(bytes))
  })

  it('gives every byte through mappings, sendfile, direct reads and copies', async () => {
    const mapping = `
fd = os.open(args[0], os.O_RDONLY)
print(hashlib.sha256(mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ)).hexdigest())`
    const sendfile = `
fd = os.open(args[0], os.O_RDONLY)
to = os.open(args[1], os.O_RDWR | os.O_CREAT, 0o600)
size = os.fstat(fd).st_size
while os.sendfile(to, fd, None, 2 ** 20) > 0: pass
print(os.lseek(to, 0, os.SEEK_CUR) == size)`
    const copy = join(served.small.dir, 'copy')
    for (const [name, bytes] of Object.entries(images)) {
      expect(await told(python(mapping, file(name)))).toBe(hash(bytes))
      expect(await told(python(sendfile, file(name), join(served.small.dir, name)))).toBe('True')
      expect(hash(await readFile(join(served.small.dir, name)))).toBe(hash(bytes))
      await told(start('cp', ['--reflink=never', file(name), copy]))
      expect(hash(await readFile(copy))).toBe(hash(bytes))
    }
    const direct = await start('dd', [`if=${file('memory')}`, 'bs=3M', 'iflag=direct', 'status=none']).ended
    expect(hash(direct.stdout)).toBe(hash(images.memory))
  })

  it('with read-ahead gives the same', async () => {
    const ahead = await served.mount({ readAheadBytes: 2 ** 20 })
    expect(await told(python(SUM_OF_READS, join(ahead.path, 'memory'), 2 ** 20))).toBe(hash(images.memory))
    await ahead.close()
  })

  it('many at random, of eight mounts at a time, holds up no file of this process', async () => {
    const restore = await served.restore()
    const mounts = await Promise.all(Array.from({ length: 8 }, () => mount(restore, served.folder())))
    const reads = `
fd = os.open(args[0], os.O_RDONLY)
mapped = mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ)
copy = open(args[1], 'rb').read()
random.seed(int(args[2]))
for i in range(400):
  size = random.randrange(1, 300000) if i % 20 == 0 else random.randrange(1, 9000)
  at = random.randrange(0, len(copy))
  found = mapped[at:at + size] if i % 2 else os.pread(fd, size, at)
  assert found == copy[at:at + size], at
print('same')`
    const copy = join(served.small.dir, 'source')
    await writeFile(copy, images.memory)
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
  })
})

describe('looking', () => {
  it('shows the images with their sizes, owner and time', async () => {
    const look = `
for name in sorted(os.listdir(args[0])):
  at = os.stat(args[0] + '/' + name)
  print(name, at.st_size, oct(at.st_mode), at.st_nlink, at.st_uid, int(at.st_mtime * 1000))`
    const { createdAt } = await served.store.open(served.id)
    const lines = Object.entries(images).map(
      ([name, { length }]) => `${name} ${length} 0o100444 1 ${process.getuid!()} ${createdAt.getTime()}`,
    )
    expect(await told(python(look, mounted.path))).toBe(lines.sort().join('\n'))
    expect(await told(python('os.stat(args[0])', file('other')))).toBe('ENOENT')
  })

  it('tells holes from data', async () => {
    const stretches = `
fd = os.open(args[0], os.O_RDONLY)
end = os.fstat(fd).st_size
at = 0
while at < end:
  try: data = os.lseek(fd, at, os.SEEK_DATA)
  except OSError as error:
    assert error.errno == errno.ENXIO
    break
  at = os.lseek(fd, data, os.SEEK_HOLE)
  print(data, at)
print(os.fstat(fd).st_blocks)`
    const lines = (await told(python(stretches, file('memory')))).split('\n')
    const blocks = Number(lines.pop())
    const rest = Buffer.from(images.memory)
    let dataBytes = 0
    for (const [from, to] of lines.map(line => line.split(' ').map(Number) as [number, number])) {
      rest.fill(0, from, to)
      dataBytes += to - from
    }
    expect(rest.some(byte => byte !== 0)).toBe(false)
    expect(blocks * 512).toBe(dataBytes)
    expect(dataBytes).toBeLessThanOrEqual((PAGES - 4 * 99) * PAGE_BYTES)
    expect(await told(python(stretches, file('empty')))).toBe('0')
    expect(await told(python('print(os.lseek(os.open(args[0], os.O_RDONLY), 10006, os.SEEK_HOLE))', file('state')))).toBe('10007')
  })

  it('lets nobody change anything', async () => {
    expect(await told(python('os.open(args[0], os.O_RDWR)', file('memory')))).toBe('EROFS')
    expect(await told(python('os.open(args[0], os.O_CREAT | os.O_RDWR)', file('new')))).toBe('EROFS')
    expect(await told(python('os.unlink(args[0])', file('memory')))).toBe('EROFS')
    expect(await told(python('os.truncate(args[0], 5)', file('memory')))).toBe('EROFS')
  })
})

it('lets another user in who is named, and nobody else', async () => {
  const own = await served.mount({ uid: 65534, gid: 65534 })
  const asUser = (id: number, path: string) =>
    start('setpriv', [`--reuid=${id}`, `--regid=${id}`, '--clear-groups', 'cat', path]).ended.then(({ stdout }) => stdout.length)
  await told(start('chmod', ['711', served.small.dir]))
  expect(await asUser(65534, join(own.path, 'state'))).toBe(images.state.length)
  expect(await asUser(65533, join(own.path, 'state'))).toBe(0)
  expect(await asUser(65534, file('state'))).toBe(0)
  await own.close()
})
