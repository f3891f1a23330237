/** The lock: one at a time, waited for in bounded time, never taken from someone who may be alive. */
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it } from 'vitest'
import type { Clock } from '../../src/util/clock.ts'
import { breakLock, withLockFile } from '../../src/util/lock-file.ts'

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

it('lets one in at a time, and passes on what comes of it', async () => {
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

it.each([
  ['somewhere else', '0123456789abcdef\n4194999\nanother-host pid:[1]\n'],
  ['unknown', 'not written by us'],
  ['unknown, of no text', ''],
])('is not taken from a holder %s: TIMEOUT', async (_, text) => {
  await writeFile(path, text)
  await expect(withLockFile(path, async () => undefined, fastClock())).rejects.toEqual(expect.objectContaining({ code: 'TIMEOUT' }))
  expect(await readFile(path, 'utf8')).toBe(text)
  expect(await readdir(folder)).toEqual(['lock'])
})

it('is not waited for where it cannot be made', async () => {
  await expect(withLockFile(join(folder, 'no', 'lock'), async () => undefined)).rejects.toEqual(
    expect.objectContaining({ code: 'NOT_FOUND' }),
  )
})

it('is not broken when another has taken the place of the dead holder meanwhile', async () => {
  const dead = { token: '0123456789abcdef', pid: 4_194_999, place: 'here' }
  const living = 'fedcba9876543210\n1\nhere\n'
  await writeFile(path, living)
  await breakLock(path, dead)
  expect(await readFile(path, 'utf8')).toBe(living)
  await writeFile(path, `${dead.token}\n${dead.pid}\n${dead.place}\n`)
  await breakLock(path, dead)
  await breakLock(path, dead)
  expect(await readdir(folder)).toEqual([])
})
