/** The lock: one at a time, waited for in bounded time, free as soon as its holder is gone. */
import { execFileSync } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, unlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it } from 'vitest'
import type { Clock } from '../../src/util/clock.ts'
import { tryLockFile, withLockFile } from '../../src/util/lock-file.ts'
import { killAtEveryCall, sourceUrl } from '../fault/killed-at.ts'
import { mountTmpfs } from '../fault/tmpfs.ts'

let folder: string
let path: string

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'thaw-lock-'))
  path = join(folder, 'lock')
})

afterEach(() => rm(folder, { recursive: true, force: true }))

/** Time passes only by sleeping, so a wait of seconds takes none. */
function fastClock(): Clock {
  let time = 0
  return {
    now: () => time,
    async sleep(ms) {
      time += ms
    },
    after: () => () => undefined,
    random: () => 0,
  }
}

it('lets one in at a time, passes on what comes of it, and leaves no file', async () => {
  let inside = 0
  const work = async (value: number) => {
    expect(++inside).toBe(1)
    await new Promise(resolve => setImmediate(resolve))
    inside--
    return value
  }
  const results = await Promise.all([1, 2, 3, 4, 5].map(value => withLockFile(path, () => work(value))))
  expect(results).toEqual([1, 2, 3, 4, 5])
  await expect(withLockFile(path, () => Promise.reject(new RangeError('x')))).rejects.toThrow(RangeError)
  expect(await readdir(folder)).toEqual([])
})

it('that is held is waited for, then TIMEOUT', async () => {
  using lock = (await tryLockFile(path))!
  lock.write('a longer text\n')
  lock.write('held\n')
  expect(await tryLockFile(path)).toBeUndefined()
  await expect(withLockFile(path, async () => undefined, fastClock())).rejects.toMatchObject({ code: 'TIMEOUT' })
  expect(await readFile(path, 'utf8')).toBe('held\n')
})

it.each([
  ['of a version that judged who is dead', `0123456789abcdef\n1\nanother-host pid:[1]\n`],
  ['of no text', ''],
])('is taken where a file lies that nobody holds: %s', async (_, text) => {
  await writeFile(path, text)
  await writeFile(`${path}.0123456789abcdef.broken`, text)
  expect(await withLockFile(path, async () => 'done', fastClock())).toBe('done')
})

it('is not made where only one that is there is wanted', async () => {
  expect(await tryLockFile(path, { existing: true })).toBeUndefined()
  expect(await readdir(folder)).toEqual([])
})

it('is not waited for where it cannot be made', async () => {
  await expect(withLockFile(join(folder, 'no', 'lock'), async () => undefined)).rejects.toMatchObject({ code: 'NOT_FOUND' })
})

it('follows no link, and waits for no pipe', async () => {
  await symlink(join(folder, 'elsewhere'), path)
  await expect(tryLockFile(path)).rejects.toMatchObject({ code: 'ELOOP' })
  await unlink(path)
  execFileSync('mkfifo', [path])
  using lock = await tryLockFile(path)
  expect(lock).toBeDefined()
})

it('of a file that was removed meanwhile is none: the next one is locked instead', async () => {
  const first = (await tryLockFile(path))!
  const waiting = withLockFile(path, async () => {
    // Of another file than the one that was removed: a third one does not get in.
    expect(await tryLockFile(path)).toBeUndefined()
  })
  await new Promise(resolve => setImmediate(resolve))
  first.release({ remove: true })
  await waiting
})

it('takes no other lock file along, and is given back where its file cannot be removed', async () => {
  const first = (await tryLockFile(path))!
  await unlink(path)
  using second = (await tryLockFile(path))!
  first.release({ remove: true })
  expect(second.isNamed).toBe(true)
  await mkdir(join(folder, 'disk'))
  using disk = mountTmpfs(join(folder, 'disk'), 'size=1m')
  const onDisk = join(folder, 'disk', 'lock')
  expect(
    await withLockFile(onDisk, async () => {
      disk.remount('ro')
      return 'done'
    }),
  ).toBe('done')
  using again = await tryLockFile(onDisk, { existing: true })
  expect(again).toBeDefined()
})

it('is free whenever its holder is killed', { timeout: 60_000 }, async () => {
  const program = `
    const { tryLockFile, withLockFile } = await import(${sourceUrl('util/lock-file.ts')})
    arm()
    await withLockFile(${JSON.stringify(path)}, async () => undefined)
    const lock = await tryLockFile(${JSON.stringify(path)})
    lock.write('held')
    lock.release()`
  const states = await killAtEveryCall(program, async () => {
    using lock = await tryLockFile(path)
    expect(lock).toBeDefined()
    lock!.release({ remove: true })
  })
  expect(states).toBeGreaterThan(8)
})
