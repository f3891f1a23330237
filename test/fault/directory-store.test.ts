import { execFileSync, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import fs from 'node:fs'
import { mkdir, mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { checkStore } from '../../src/store/check.ts'
import { openDirectoryStore } from '../../src/store/directory.ts'
import type { ObjectStore } from '../../src/store.ts'

const MODULE = join(import.meta.dirname, '../../src/store/directory.ts')

let folder = ''
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'thaw-store-'))
})
afterEach(async () => {
  vi.restoreAllMocks()
  await rm(folder, { recursive: true, force: true })
})

const listed = async (store: ObjectStore): Promise<string[]> => (await Array.fromAsync(store.list(''))).map(({ key }) => key)
const unfinished = (): Promise<string[]> => readdir(join(folder, 'tmp'))

/** Runs `work` with a small file system of its own mounted at `folder`. */
async function onTmpfs(options: string, work: (remount: (options: string) => void) => Promise<void>): Promise<void> {
  execFileSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', folder])
  try {
    await work(changed => execFileSync('mount', ['-o', `remount,${changed}`, folder]))
  } finally {
    execFileSync('umount', ['-l', folder])
  }
}

/** Another process that runs this module text, and the lines it prints. */
function runElsewhere(script: string): { child: ReturnType<typeof spawn>; lines: AsyncIterable<string> } {
  const source = `import { openDirectoryStore } from ${JSON.stringify(MODULE)}\nconst store = openDirectoryStore(${JSON.stringify(folder)})\n${script}`
  const child = spawn(process.execPath, ['--input-type=module', '--eval', source], { stdio: ['pipe', 'pipe', 'inherit'] })
  return { child, lines: createInterface({ input: child.stdout }) }
}

describe('a directory store in trouble', () => {
  it('passes the check of a provider', async () => {
    await using store = openDirectoryStore(folder)
    expect((await Array.fromAsync(checkStore(store))).filter(result => !result.ok)).toEqual([])
    expect(await listed(store)).toEqual([])
    expect(await unfinished()).toEqual([])
  })

  it('on a full disk: NO_SPACE, and nothing half is left', async () => {
    await onTmpfs('size=1m', async () => {
      await using store = openDirectoryStore(folder)
      await store.put('kept', Buffer.alloc(400_000, 1))
      await store.sync()
      await expect(store.put('a/b', Buffer.alloc(800_000, 2))).rejects.toMatchObject({ code: 'NO_SPACE' })
      await expect(store.putIfAbsent('a/c', Buffer.alloc(800_000, 3))).rejects.toMatchObject({ code: 'NO_SPACE' })
      await store.sync()
      expect(await unfinished()).toEqual([])
      expect(await listed(store)).toEqual(['kept'])
      await store.put('a/b', Buffer.alloc(300_000, 2))
      await store.sync()
      expect(await listed(store)).toEqual(['a/b', 'kept'])
    })
  })

  it('on a read-only file system: DENIED, and reads go on', async () => {
    await onTmpfs('size=1m', async remount => {
      await using store = openDirectoryStore(folder)
      await store.put('a', Buffer.from('there'))
      await store.sync()
      remount('ro')
      await expect(store.put('b', Buffer.from('x'))).rejects.toMatchObject({ code: 'DENIED' })
      await expect(store.putIfAbsent('b', Buffer.from('x'))).rejects.toMatchObject({ code: 'DENIED' })
      await expect(store.delete('a')).rejects.toMatchObject({ code: 'DENIED' })
      expect(Buffer.from(await store.get('a', { sizeMax: 10 })).toString()).toBe('there')
      expect(await store.head('b')).toBeUndefined()
    })
  })

  it('keeps staged what could not be moved into place, for the next sync', async () => {
    await using store = openDirectoryStore(folder)
    await store.put('a', Buffer.from('x'))
    await store.put('b', Buffer.from('y'))
    vi.spyOn(fs, 'rename').mockImplementationOnce((_from, _to, done) => done(errno('ENOSPC', 'rename')))
    await expect(store.sync()).rejects.toMatchObject({ code: 'NO_SPACE' })
    await store.sync()
    expect(await listed(store)).toEqual(['a', 'b'])
  })

  it('says at every sync that bytes did not reach the disk, until they are written again', async () => {
    await using store = openDirectoryStore(folder)
    vi.spyOn(fs, 'fdatasync').mockImplementationOnce((_fd, done) => done(errno('EIO', 'fdatasync')))
    await store.put('a', Buffer.from('lost'))
    await store.put('b', Buffer.from('y'))
    await expect(store.sync()).rejects.toMatchObject({ code: 'UNAVAILABLE' })
    await expect(store.sync()).rejects.toMatchObject({ code: 'UNAVAILABLE' })
    expect(await listed(store)).toEqual(['b'])
    await store.put('a', Buffer.from('again'))
    await store.sync()
    expect(await listed(store)).toEqual(['a', 'b'])
    expect(await unfinished()).toEqual([])
  })

  it('syncs again the folders that could not be synced', async () => {
    await using store = openDirectoryStore(folder)
    await store.put('a/b', Buffer.from('x'))
    const fsync = vi.spyOn(fs, 'fsync').mockImplementationOnce((_fd, done) => done(errno('EIO', 'fsync')))
    await expect(store.sync()).rejects.toMatchObject({ code: 'UNAVAILABLE' })
    fsync.mockClear()
    await store.sync()
    expect(fsync.mock.calls.length).toBeGreaterThanOrEqual(2)
    fsync.mockClear()
    await store.head('a/b')
    await store.sync()
    expect(fsync.mock.calls.length).toBeGreaterThanOrEqual(2)
  })

  it('flushes a batch that grows too large by itself', async () => {
    await using store = openDirectoryStore(folder)
    const keys = Array.from({ length: 1_030 }, (_, index) => `many/${index}`)
    await Promise.all(keys.map(key => store.put(key, Buffer.from('x'))))
    expect((await listed(store)).length).toBeGreaterThanOrEqual(1_024)
  })

  it('removes what was not synced when it closes', async () => {
    const store = openDirectoryStore(folder)
    await Promise.all(['a', 'b', 'c'].map(key => store.put(key, Buffer.from(key))))
    await store.close()
    expect(await unfinished()).toEqual([])
  })

  it('sweeps what dead processes left, and nothing else', async () => {
    await mkdir(join(folder, 'tmp'))
    const dayAgo = Date.now() / 1000 - 30 * 3600
    const dead = execFileSync('sh', ['-c', 'echo $$']).toString().trim()
    for (const [name, time] of [
      [`${dead}.old.0`, dayAgo],
      [`${process.pid}.alive.0`, dayAgo],
      [`${process.pid}.forgotten.0`, dayAgo - 7 * 24 * 3600],
      [`${dead}.new.0`, Date.now() / 1000],
    ] as const) {
      await writeFile(join(folder, 'tmp', name), 'x')
      await utimes(join(folder, 'tmp', name), time, time)
    }
    const store = openDirectoryStore(folder)
    await store.put('a', Buffer.from('x'))
    await store.sync()
    await store.close()
    expect((await unfinished()).sort()).toEqual([`${process.pid}.alive.0`, `${dead}.new.0`].sort())
  })

  it('makes, empties and shares folders with other stores at work', async () => {
    await using one = openDirectoryStore(folder)
    await using other = openDirectoryStore(folder)
    for (let round = 0; round < 20; round++) {
      await Promise.all([
        one.putIfAbsent('a/b/1', Buffer.from('x')).then(() => one.delete('a/b/1')),
        other.put('a/b/2', Buffer.from('y')).then(() => other.sync()),
      ])
      expect(await listed(one)).toEqual(['a/b/2'])
      await other.delete('a/b/2')
    }
  })

  it('killed in the middle of puts: every visible object is whole', async () => {
    const script = `
      import { createHash, randomBytes } from 'node:crypto'
      for (let count = 0; ; count++) {
        const puts = Array.from({ length: 8 }, () => {
          const body = randomBytes(1 + Math.floor(Math.random() * 200_000))
          const id = createHash('sha256').update(body).digest('hex')
          return store.put('chunks/' + id.slice(0, 1) + '/' + id, body)
        })
        await Promise.all(puts)
        await store.sync()
        console.log(count)
      }`
    for (let round = 0; round < 3; round++) {
      const { child, lines } = runElsewhere(script)
      for await (const line of lines) if (Number(line) === round * 3) break
      child.kill('SIGKILL')
      await once(child, 'exit')
    }
    await using store = openDirectoryStore(folder)
    const keys = await listed(store)
    expect(keys.length).toBeGreaterThanOrEqual(8)
    for (const key of keys) {
      const body = await store.get(key, { sizeMax: 2 ** 20 })
      expect(createHash('sha256').update(body).digest('hex')).toBe(key.split('/')[2])
    }
  })

  it('raced by two processes: put-if-absent has one winner', async () => {
    const count = 60
    const race = (name: string) =>
      runElsewhere(`
        console.log('ready')
        await new Promise(resolve => process.stdin.once('data', resolve))
        const won = []
        for (let index = 0; index < ${count}; index++) won.push(await store.putIfAbsent('race/' + index, Buffer.from('${name}')))
        console.log(JSON.stringify(won))
        process.exit()`)
    const racers = ['first', 'other'].map(name => ({ name, ...race(name) }))
    const results = racers.map(async ({ name, child, lines }) => {
      const won: boolean[] = []
      for await (const line of lines) {
        if (line === 'ready') child.stdin?.write('go\n')
        else won.push(...(JSON.parse(line) as boolean[]))
      }
      return { name, won }
    })
    const [first, other] = await Promise.all(results)
    await using store = openDirectoryStore(folder)
    for (let index = 0; index < count; index++) {
      const winners = [first, other].filter(result => result?.won[index] === true)
      expect(winners).toHaveLength(1)
      expect(Buffer.from(await store.get(`race/${index}`, { sizeMax: 10 })).toString()).toBe(winners[0]?.name)
    }
  })
})

function errno(code: string, syscall: string): NodeJS.ErrnoException {
  return Object.assign(new Error(`${code}, on purpose`), { code, syscall })
}
