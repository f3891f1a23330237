/** Writable mounts: what is written is read back, by whatever way, and by nobody else's restore. */
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { mount } from '../../src/frontend/fuse.ts'
import { codeOfAsync } from '../code-of.ts'
import { randomImage } from '../small-store.ts'
import { python, Served, start, told } from './fuse-mounted.ts'

const PAGE_BYTES = 4096
const SIZE_BYTES = 500 * PAGE_BYTES + 1234
const image = Buffer.concat([randomImage(500), Buffer.alloc(1234, 7)])

let served: Served

beforeAll(async () => {
  served = await Served.of({ memory: image, rootfs: image })
})

afterAll(() => served[Symbol.asyncDispose]())

/** What the server has, not what the kernel remembers: of an image that fits no page the last bytes are read in the common way. */
async function bytesOf(path: string): Promise<Buffer> {
  await told(python('fd = os.open(args[0], os.O_RDONLY)\nos.fsync(fd)\nos.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)', path))
  const { stdout } = await start('cat', [path]).ended
  return stdout
}

const WRITES = `
fd = os.open(args[0], os.O_RDWR)
size = os.fstat(fd).st_size
model = bytearray(os.pread(fd, size, 0))
mapped = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
random.seed(int(args[1]))
for i in range(300):
  length = random.choice([1, 7, 4096, 5000, 70000])
  at = random.randrange(0, size - length)
  if i % 3 == 0: at -= at % 4096
  bytes = random.randbytes(length)
  model[at:at + length] = bytes
  if i % 2: mapped[at:at + length] = bytes
  else: assert os.pwrite(fd, bytes, at) == length
  if i % 50 == 0: mapped.flush()
  assert os.pread(fd, length, at) == bytes
mapped.flush()
os.fsync(fd)
sys.stdout.buffer.write(model)`

describe('what is written', () => {
  it('is read back, by those of this restore alone, and is in its commit', async () => {
    const restore = await served.restore()
    await using mounted = await mount(restore, served.folder(), { writable: true })
    await using other = await served.mount({ writable: true })
    const path = join(mounted.path, 'memory')
    const { stdout: model, stderr } = await python(WRITES, path, 1).ended
    expect(stderr).toBe('')
    expect(model.length).toBe(SIZE_BYTES)
    expect((await bytesOf(path)).equals(model)).toBe(true)
    expect((await bytesOf(join(other.path, 'memory'))).equals(image)).toBe(true)
    // Left in a mapping: the commit has it arrive first.
    const dirty = `
fd = os.open(args[0], os.O_RDWR)
mapped = mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
mapped[5000:5005] = b'dirty'
print('wrote', flush=True)
sys.stdin.readline()`
    const holder = python(dirty, path)
    await holder.said('wrote')
    const { id } = await restore.commit()
    holder.child.stdin!.end('\n')
    await holder.ended
    model.write('dirty', 5000)
    const child = await served.store.open(id)
    expect(model.equals(await child.image('memory').read(0, SIZE_BYTES))).toBe(true)
    expect(image.equals(await child.image('rootfs').read(0, SIZE_BYTES))).toBe(true)
  })

  it('can be zeros, of which no hole is told', async () => {
    await using mounted = await served.mount({ writable: true })
    const path = join(mounted.path, 'memory')
    const punch = `
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open(args[0], os.O_RDWR)
for mode, at, length in [(3, 10000, 30000), (16, 81920, 8192), (17, 1, 5)]:
  assert libc.fallocate(fd, mode, ctypes.c_long(at), ctypes.c_long(length)) == 0, ctypes.get_errno()
print(libc.fallocate(fd, 0, ctypes.c_long(0), ctypes.c_long(5)), errno.errorcode[ctypes.get_errno()], end=' ')
print(libc.fallocate(fd, 16, ctypes.c_long(0), ctypes.c_long(2 ** 30)), errno.errorcode[ctypes.get_errno()], end=' ')
print(os.lseek(fd, 81920, os.SEEK_HOLE), os.lseek(fd, 81920, os.SEEK_DATA))`
    expect(await told(python(punch, path))).toBe(`-1 ENOTSUP -1 EFBIG ${SIZE_BYTES} 81920`)
    const expected = Buffer.from(image).fill(0, 10_000, 40_000).fill(0, 81_920, 90_112).fill(0, 1, 6)
    expect((await bytesOf(path)).equals(expected)).toBe(true)
  })

  it('changes times, not sizes nor names', async () => {
    await using mounted = await served.mount({ writable: true })
    const path = join(mounted.path, 'memory')
    const attempts = `
def attempt(call, *given):
  try:
    call(*given)
    return 'done'
  except OSError as error: return errno.errorcode[error.errno]
size = os.stat(args[0]).st_size
before = os.stat(args[0]).st_mtime
print(attempt(os.truncate, args[0], size), attempt(os.truncate, args[0], size + 1), attempt(os.truncate, args[0], 0), end=' ')
print(attempt(os.unlink, args[0]), attempt(os.mkdir, args[0] + 'x'), attempt(os.rename, args[0], args[0] + 'x'), end=' ')
print(attempt(os.chmod, args[0], 0o644), attempt(os.chmod, args[0], 0o777), attempt(os.chown, args[0], 1, -1), end=' ')
os.utime(args[0], (1, 2))
print(os.stat(args[0]).st_mtime, end=' ')
fd = os.open(args[0], os.O_WRONLY)
print(attempt(os.pwrite, fd, b'x', size), os.pwrite(fd, b'xyz', size - 2), end=' ')
print(os.stat(args[0]).st_mtime >= before, os.stat(args[0]).st_size == size)`
    expect(await told(python(attempts, path))).toBe('done EFBIG EPERM EPERM EPERM EPERM done EPERM EPERM 2.0 EFBIG 2 True True')
  })

  it('has no room beyond its budget, and earlier bytes stay', async () => {
    await using mounted = await served.mount({ writable: true }, { overlay: { sizeMax: 10 * PAGE_BYTES } })
    const path = join(mounted.path, 'memory')
    const fill = `
fd = os.open(args[0], os.O_RDWR)
for page in range(10): os.pwrite(fd, b'a' * 4096, page * 4096)
os.pwrite(fd, b'b' * 4096, 0)
os.pwrite(fd, b'c' * 4096, 20 * 4096)`
    expect(await told(python(fill, path))).toBe('ENOSPC')
    const found = await bytesOf(path)
    expect(found.subarray(0, 10 * PAGE_BYTES)).toEqual(Buffer.concat([Buffer.alloc(PAGE_BYTES, 'b'), Buffer.alloc(9 * PAGE_BYTES, 'a')]))
    expect(found.subarray(10 * PAGE_BYTES).equals(image.subarray(10 * PAGE_BYTES))).toBe(true)
  })
})

it('only one mount of a restore writes to an image, and only where it was asked for', async () => {
  const restore = await served.restore()
  const first = await mount(restore, served.folder(), { writable: ['memory'] })
  expect(await codeOfAsync(() => mount(restore, served.folder(), { writable: true }))).toBe('CONFLICT')
  expect(await codeOfAsync(() => mount(restore, served.folder(), { writable: ['other'] }))).toBe('NOT_FOUND')
  expect(await told(python('os.open(args[0], os.O_RDWR)', join(first.path, 'rootfs')))).toBe('EROFS')
  expect(await told(python('os.open(args[0], os.O_RDWR)', join(first.path, 'memory')))).toBe('')
  await restore.close()
})
