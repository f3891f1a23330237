/**
 * Disks that are full, read-only or will not be read, seen through push and pull: one code, nothing published, nothing left, and all well again once there is room.
 */
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { PAGE_BYTES } from '../../src/chunk.ts'
import { createFileKeyring, type FileKeyring, initStore, openStore, type PushResult, type SnapshotStore } from '../../src/index.ts'
import { codeOfAsync } from '../code-of.ts'
import { pieces } from '../small-store.ts'
import { mountTmpfs } from './tmpfs.ts'

/** Does not compress. */
const IMAGE = randomBytes(4 * 2 ** 20 + 100)
const SMALL_PAGES = 10
const SMALL_IMAGE = IMAGE.subarray(0, SMALL_PAGES * PAGE_BYTES)
const NOBODY = 65_534

let dir: string
let url: string
let out: string
let keyring: FileKeyring

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'thaw-disk-'))
  url = join(dir, 'store')
  out = join(dir, 'out')
  await mkdir(url)
  await mkdir(out)
  keyring = await createFileKeyring(join(dir, 'keys'))
})
afterEach(() => rm(dir, { recursive: true, force: true }))

function push(store: SnapshotStore, image: Uint8Array, tag?: string): Promise<PushResult> {
  return store.push({ layer: 'os', images: { memory: { stream: pieces(image) } }, tag })
}

/** Pushes by an opened store of its own, and gives the code if it fails. */
async function pushCode(image: Uint8Array, tag?: string): Promise<string | undefined> {
  await using store = await openStore(url, { keyring })
  return await codeOfAsync(() => push(store, image, tag))
}

async function published(): Promise<string[]> {
  await using store = await openStore(url, { keyring })
  return (await Array.fromAsync(store.list())).map(({ id }) => id)
}

/** Every snapshot that is listed verifies, and nothing is being written any more. */
async function expectWhole(): Promise<void> {
  expect(await readdir(join(url, 'tmp'))).toEqual([])
  await using store = await openStore(url, { keyring })
  for (const id of await published()) expect(await store.verify(id)).toMatchObject({ opened: true, bad: [] })
}

describe('a push', () => {
  it('to a disk too small for it: NO_SPACE, nothing is published, and it completes once there is room', async () => {
    using disk = mountTmpfs(url, 'size=2m')
    await initStore(url, { keyring })
    expect(await pushCode(IMAGE, 'image:1')).toBe('NO_SPACE')
    expect(await published()).toEqual([])
    await expectWhole()
    disk.remount('size=16m')
    await using store = await openStore(url, { keyring })
    expect(await codeOfAsync(() => store.resolve('image:1'))).toBe('NOT_FOUND')
    const { id } = await push(store, IMAGE, 'image:1')
    expect(await published()).toEqual([id])
    await expectWhole()
  })

  it('goes on in the same process once there is room', async () => {
    using disk = mountTmpfs(url, 'size=2m')
    await initStore(url, { keyring })
    await using store = await openStore(url, { keyring })
    expect(await codeOfAsync(() => push(store, IMAGE))).toBe('NO_SPACE')
    disk.remount('size=16m')
    const { id } = await push(store, IMAGE)
    expect(await published()).toEqual([id])
    await expectWhole()
  })

  // A chunk, the wrapped key, the manifest and the tag: whichever is the first that does not fit.
  it('to a disk that is full at any of its writes: NO_SPACE, and what is listed is whole', { timeout: 120_000 }, async () => {
    using _disk = mountTmpfs(url, 'size=1m')
    await initStore(url, { keyring })
    const seen: (string | undefined)[] = []
    let free = 0
    for (; free === 0 || seen.at(-1) !== undefined; free++) {
      const filler = join(url, 'filler')
      await fillExcept(filler, free)
      // Another image each time, so that no chunk is there from the time before.
      const image = Buffer.from(SMALL_IMAGE)
      image[0]! = free
      const before = await published()
      seen.push(await pushCode(image, `image:${free}`))
      await rm(filler)
      await expectWhole()
      // The snapshot is published before its tag is written: with room for all but the tag it stays, untagged.
      if (seen.at(-1) !== undefined && free < SMALL_PAGES + 3) expect(await published()).toEqual(before)
    }
    expect(new Set(seen)).toEqual(new Set(['NO_SPACE', undefined]))
    expect(free).toBeGreaterThan(SMALL_PAGES)
  })

  it('to a store on a read-only disk: DENIED, while pulls from it work', async () => {
    using disk = mountTmpfs(url, 'size=16m')
    await initStore(url, { keyring })
    await using store = await openStore(url, { keyring })
    const { id } = await push(store, IMAGE)
    disk.remount('ro')
    expect(await codeOfAsync(() => push(store, SMALL_IMAGE))).toBe('DENIED')
    expect(await codeOfAsync(() => store.tag(id, { tenant: undefined, name: 'image:1' }))).toBe('DENIED')
    expect(await codeOfAsync(() => store.remove(id))).toBe('DENIED')
    await using snapshot = await store.open(id)
    await snapshot.pull(out)
    expect(IMAGE.equals(await readFile(join(out, 'memory')))).toBe(true)
  })

  it('makes no store on a read-only disk: DENIED', async () => {
    using disk = mountTmpfs(url, 'size=1m')
    disk.remount('ro')
    expect(await codeOfAsync(() => initStore(url, { keyring }))).toBe('DENIED')
    expect(await codeOfAsync(() => openStore(url, { keyring }))).toBe('NOT_FOUND')
  })

  it('of a file that it may not read: DENIED, with its path', async () => {
    await initStore(url, { keyring })
    await using store = await openStore(url, { keyring })
    const path = join(dir, 'image')
    await writeFile(path, SMALL_IMAGE)
    await chmod(dir, 0o755)
    await chmod(path, 0o000)
    await asNobody(async () => {
      await expect(store.push({ layer: 'os', images: { memory: { path: path } } })).rejects.toMatchObject({ code: 'DENIED', object: path })
    })
    expect(await published()).toEqual([])
  })

  it('of a file that opens and then cannot be read: UNAVAILABLE', async () => {
    await initStore(url, { keyring })
    // The loopback device has no speed: the kernel says EINVAL to whoever reads it, as a bad disk would say EIO.
    const unreadable = '/sys/class/net/lo/speed'
    await using store = await openStore(url, { keyring })
    expect(await codeOfAsync(() => store.push({ layer: 'os', images: { memory: { path: unreadable } } }))).toBe('UNAVAILABLE')
    expect(await published()).toEqual([])
  })
})

describe('a pull', () => {
  let store: SnapshotStore
  let id: string

  beforeEach(async () => {
    await initStore(url, { keyring })
    store = await openStore(url, { keyring })
    id = (await push(store, IMAGE)).id
  })
  afterEach(() => store.close())

  async function pullCode(): Promise<string | undefined> {
    await using snapshot = await store.open(id)
    return await codeOfAsync(() => snapshot.pull(out))
  }

  it('to a disk too small for it: NO_SPACE, and the file that was there is untouched', async () => {
    using disk = mountTmpfs(out, 'size=2m')
    await writeFile(join(out, 'memory'), 'as it was')
    await using snapshot = await store.open(id)
    await expect(snapshot.pull(out)).rejects.toMatchObject({ code: 'NO_SPACE', object: join(out, 'memory') })
    expect(await readdir(out)).toEqual(['memory'])
    expect(await readFile(join(out, 'memory'), 'utf8')).toBe('as it was')
    disk.remount('size=16m')
    expect(await pullCode()).toBeUndefined()
    expect(await readdir(out)).toEqual(['memory'])
    expect(IMAGE.equals(await readFile(join(out, 'memory')))).toBe(true)
  })

  it('to where no file may be so large: NO_SPACE, and nothing is left', async () => {
    limitFileSize(String(IMAGE.length - 1))
    try {
      expect(await pullCode()).toBe('NO_SPACE')
    } finally {
      limitFileSize('unlimited')
    }
    expect(await readdir(out)).toEqual([])
  })

  it('to a read-only disk: DENIED', async () => {
    using disk = mountTmpfs(out, 'size=16m')
    disk.remount('ro')
    expect(await pullCode()).toBe('DENIED')
    out = join(out, 'new/folder')
    expect(await pullCode()).toBe('DENIED')
  })
})

/** Leaves so many free pages on a tmpfs of 1 MiB. */
async function fillExcept(path: string, pages: number): Promise<void> {
  const free = Number(execFileSync('stat', ['-f', '-c', '%f', url]).toString())
  await writeFile(path, Buffer.alloc((free - pages) * PAGE_BYTES))
}

/** Runs `work` without root's right to read every file. */
async function asNobody(work: () => Promise<void>): Promise<void> {
  const user = process.geteuid!()
  if (user === 0) process.seteuid!(NOBODY)
  try {
    await work()
  } finally {
    process.seteuid!(user)
  }
}

/** For this process, as `ulimit -f` would; the hard limit stays. */
function limitFileSize(bytes: string): void {
  execFileSync('prlimit', [`--fsize=${bytes}:`, '--pid', String(process.pid)])
}
