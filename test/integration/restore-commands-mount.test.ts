/** `thaw mount` as its users run it: what it prints, what it leaves, how it ends. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { access, open, readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Ended, ended, errorLine } from '../cli/program.ts'
import { isMounted, python, told, until } from './fuse-mounted.ts'
import { overlayOf, PAGE, Pushed } from './restore-commands.ts'

let pushed: Pushed
let mounts = 0

beforeAll(async () => {
  pushed = await Pushed.create()
  await pushed.place.mustRun('pull', 'base', 'full')
})

afterAll(() => pushed[Symbol.asyncDispose]())

/** A folder that is not there yet. */
const folder = () => pushed.place.path(`run/${++mounts}`)
const isThere = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  )
const errorOf = (ended: Ended) => JSON.parse(errorLine(ended)).error
const fill = async (path: string, page: number, byte: number, count = 1): Promise<void> => {
  await using file = await open(path, 'r+')
  await file.write(Buffer.alloc(count * PAGE, byte), 0, undefined, page * PAGE)
}

describe('a mount', () => {
  it('is ready with one line, has every byte, and is gone after SIGTERM', async () => {
    const dir = folder()
    const child = pushed.place.start(['mount', 'base', dir, '--id', 'vm-1'])
    const [line] = await once(child.stdout.setEncoding('utf8'), 'data')
    expect(line).toBe(`ready vm-1 ${dir}\n`)
    for (const name of ['memory', 'rootfs', 'state'] as const) expect((await readFile(join(dir, name))).equals(pushed[name])).toBe(true)
    expect(await readdir(dir)).toEqual(['memory', 'rootfs', 'state'])
    child.kill('SIGTERM')
    const { code, stdout, stderr } = await ended(child)
    expect({ code, stdout }).toEqual({ code: 0, stdout: '' })
    expect(stderr).toMatch(new RegExp(`^thaw: ${dir}: connected \\(process \\d+\\)\nthaw: ${dir}: closed\n$`))
    expect([await isMounted(dir), await isThere(dir)]).toEqual([false, false])
  })

  it('tells what happens in JSON, a document a line', async () => {
    const dir = folder()
    await using serving = await pushed.serve(['mount', 'base', dir])
    await told(python('print(len(open(args[0], "rb").read()))', join(dir, 'state')))
    await serving.event('connected')
    expect(await serving.stop('SIGINT')).toEqual({ code: 0, stdout: '', stderr: '' })
    const all = { schema: 1, restore: serving.id }
    expect(serving.events).toEqual([
      { ...all, event: 'ready', snapshot: pushed.id, paths: [dir] },
      { ...all, event: 'connected', frontEnd: 'fuse', image: null, path: dir, pid: expect.any(Number) },
      { ...all, event: 'closed', frontEnd: 'fuse', image: null, path: dir, reason: 'closed' },
    ])
  })

  it('keeps writes to itself, and nothing of them when it ends', async () => {
    const [one, two] = [folder(), folder()]
    await using first = await pushed.serve(['mount', 'base', one, '--writable'])
    await using second = await pushed.serve(['mount', 'base', two, '--writable'])
    await fill(join(one, 'memory'), 7, 0x77)
    const changed = Buffer.from(pushed.memory).fill(0x77, 7 * PAGE, 8 * PAGE)
    expect((await readFile(join(one, 'memory'))).equals(changed)).toBe(true)
    expect((await readFile(join(two, 'memory'))).equals(pushed.memory)).toBe(true)
    const overlay = await stat(overlayOf(pushed, first))
    expect(overlay.mode & 0o777).toBe(0o700)
    expect((await first.stop()).code).toBe(0)
    expect(await readdir(pushed.overlays)).toEqual([second.id])
    expect((await second.stop()).code).toBe(0)
    expect(await readdir(pushed.overlays)).toEqual([])
  })

  it('leaves the overlay if it is told to', async () => {
    const dir = folder()
    await using serving = await pushed.serve(['mount', 'base', dir, '--writable', '--keep-overlay', '--id', 'kept'])
    await fill(join(dir, 'rootfs'), 3, 0x33)
    expect((await serving.stop()).code).toBe(0)
    const bytes = await readFile(join(overlayOf(pushed, serving), 'rootfs.pages'))
    expect(bytes.subarray(3 * PAGE, 4 * PAGE).equals(Buffer.alloc(PAGE, 0x33))).toBe(true)
    const again = await pushed.place.run(
      'mount',
      'base',
      folder(),
      '--writable',
      '--id',
      'kept',
      '--overlay-dir',
      pushed.overlays,
      '--json',
    )
    expect(errorOf(again)).toMatchObject({ code: 'CONFLICT', object: overlayOf(pushed, serving) })
  })

  it('has no room for more than --overlay-max, and others do not feel that', async () => {
    const dir = folder()
    await using serving = await pushed.serve(['mount', 'base', dir, '--writable', '--overlay-max', '64k'])
    await fill(join(dir, 'memory'), 0, 1, 16)
    await expect(fill(join(dir, 'rootfs'), 0, 1)).rejects.toMatchObject({ code: 'ENOSPC' })
    expect((await readFile(join(dir, 'rootfs'))).equals(pushed.rootfs)).toBe(true)
    await fill(join(dir, 'memory'), 1, 2, 3)
    expect((await serving.stop()).code).toBe(0)
  })

  it('of an id that runs already is refused', async () => {
    const dir = folder()
    await using _ = await pushed.serve(['mount', 'base', dir, '--id', 'twice'])
    const other = folder()
    const second = await pushed.place.run('mount', 'base', other, '--id', 'twice', '--json')
    expect(second).toMatchObject({ code: 1, stdout: '' })
    expect(errorOf(second)).toMatchObject({ code: 'CONFLICT', object: 'twice' })
    expect(await isThere(other)).toBe(false)
  })

  it('goes on when nobody reads what it tells any more', async () => {
    const dir = folder()
    await using serving = await pushed.serve(['mount', 'base', dir])
    serving.child.stdout.destroy()
    expect((await readFile(join(dir, 'memory'))).equals(pushed.memory)).toBe(true)
    expect((await readFile(join(dir, 'state'))).equals(pushed.state)).toBe(true)
    expect(await serving.stop()).toMatchObject({ code: 0, stderr: '' })
  })
})

describe('the end of a mount', () => {
  it('is Ctrl-C, which all of its processes get', async () => {
    const dir = folder()
    // A shell in between, to have a group of processes of its own.
    const script = `"${process.execPath}" "${new URL('../../src/cli.ts', import.meta.url).pathname}" mount base ${dir}`
    const shell = spawn('/bin/sh', ['-c', `exec ${script}`], {
      cwd: pushed.place.folder,
      env: { ...process.env, XDG_RUNTIME_DIR: pushed.place.folder },
      detached: true,
    })
    try {
      await once(shell.stdout, 'data')
      process.kill(-shell.pid!, 'SIGINT')
      expect((await ended(shell)).code).toBe(0)
    } finally {
      shell.kill('SIGKILL')
    }
    expect(await isMounted(dir)).toBe(false)
  })

  it('takes it from those who still use it', async () => {
    const dir = folder()
    await using serving = await pushed.serve(['mount', 'base', dir])
    const reader = python('file = open(args[0], "rb")\nprint("open", flush=True)\nsys.stdin.read()\nfile.read()', join(dir, 'memory'))
    await reader.said('open')
    expect((await serving.stop()).code).toBe(0)
    expect(await isMounted(dir)).toBe(false)
    reader.child.stdin!.end()
    expect((await reader.ended).code).toBe(9)
  })

  it('at the second signal is at once, and leaves nothing either', async () => {
    const dir = folder()
    await using serving = await pushed.serve(['mount', 'base', dir])
    const reader = python('file = open(args[0], "rb")\nprint("open", flush=True)\nsys.stdin.read()\nfile.read()', join(dir, 'memory'))
    await reader.said('open')
    serving.child.kill('SIGINT')
    // It waits a moment for the reader.
    await new Promise(resolve => setTimeout(resolve, 100))
    serving.child.kill('SIGINT')
    await serving.ended
    expect(['SIGINT', null]).toContain(serving.child.signalCode)
    await until(async () => !(await isMounted(dir)))
    reader.child.stdin!.end()
    expect((await reader.ended).code).toBe(9)
  })

  it('is that somebody unmounts it', async () => {
    const dir = folder()
    await using serving = await pushed.serve(['mount', 'base', dir])
    spawn('umount', [dir])
    expect((await serving.ended).code).toBe(0)
    expect(await serving.event('closed')).toMatchObject({ reason: 'unmounted' })
  })

  it('by kill -9 is an error for readers, and the mount is taken off', async () => {
    const dir = folder()
    await using serving = await pushed.serve(['mount', 'base', dir, '--writable'])
    const reader = python(
      'file = open(args[0], "rb", buffering=0)\nprint("open", flush=True)\nsys.stdin.read()\nprint(len(file.read()))',
      join(dir, 'memory'),
    )
    await reader.said('open')
    await serving.stop('SIGKILL')
    reader.child.stdin!.end()
    expect((await reader.ended).code).toBe(9)
    await until(async () => !(await isMounted(dir)))
    // The next restore removes what the dead one wrote.
    await using next = await pushed.serve(['mount', 'base', folder(), '--writable'])
    await until(async () => !(await readdir(pushed.overlays)).includes(serving.id))
    expect((await next.stop()).code).toBe(0)
  })
})

describe('a mount that cannot be', () => {
  it.each<readonly [string, number, readonly string[]]>([
    ['NOT_FOUND', 1, ['mount', 'nothing', 'x']],
    ['NOT_FOUND', 1, ['mount', 'base', 'x', '--store', 'nowhere']],
    ['NOT_FOUND', 1, ['mount', 'base', 'x', '--keyring', 'nowhere']],
    ['CONFLICT', 1, ['mount', 'base', 'full']],
    ['USAGE', 2, ['mount', 'base', 'x', '--wrong']],
    ['USAGE', 2, ['mount', 'base']],
    ['USAGE', 2, ['mount', 'base', 'x', '--overlay-max', 'much']],
    ['USAGE', 2, ['mount', 'base', 'x', '--id', 'a/b']],
    ['USAGE', 2, ['mount', 'base', 'x', '--file-mode', '999']],
    ['USAGE', 2, ['mount', 'base', 'x', '--file-uid', 'root']],
    ['USAGE', 2, ['mount', 'base', 'x', '--page-deadline', '0']],
    ['USAGE', 2, ['mount', 'base', 'x', '--spin', '-1']],
  ])('is %s, exit code %d: %j', async (code, exitCode, args) => {
    const result = await pushed.place.run(...args, '--json')
    expect(errorOf(result).code).toBe(code)
    expect(result).toMatchObject({ code: exitCode, stdout: '' })
    expect(await isThere(pushed.place.path('x'))).toBe(false)
  })

  it('because there is a file says so', async () => {
    await writeFile(pushed.place.path('file'), '')
    const result = await pushed.place.run('mount', 'base', 'file')
    expect(result.code).toBe(1)
    expect(errorLine(result)).toContain(pushed.place.path('file'))
  })

  it('because no store is set says how to set one', async () => {
    const child = pushed.place.start(['mount', 'base', 'x', '--config', 'empty.json'])
    await writeFile(pushed.place.path('empty.json'), '{}')
    child.stdin.end()
    const result = await ended(child)
    expect(result.code).toBe(2)
    expect(errorLine(result)).toContain('--store')
  })

  it('without the right to mount says what to do', async () => {
    const program = ['--bounding-set', '-sys_admin', process.execPath, new URL('../../src/cli.ts', import.meta.url).pathname]
    const child = spawn('setpriv', [...program, 'mount', 'base', 'x', '--json'], {
      cwd: pushed.place.folder,
      env: { ...process.env, XDG_RUNTIME_DIR: pushed.place.folder },
    })
    const result = await ended(child)
    expect(result).toMatchObject({ code: 1, stdout: '' })
    expect(errorOf(result)).toMatchObject({ code: 'DENIED', message: expect.stringContaining('unshare --user') })
    expect(await isThere(pushed.place.path('x'))).toBe(false)
  })
})
