/** `thaw serve nbd`, `serve uffd` and `restore` as their users run them, with real clients; the hook, the service manager, and how a VMM's end is theirs. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { errorLine } from '../cli/program.ts'
import { startVmm, type Vmm } from '../uffd/vmm.ts'
import { until } from './fuse-mounted.ts'
import { runWell } from './nbd-served.ts'
import { Pushed } from './restore-commands.ts'

let pushed: Pushed
let sockets = 0

beforeAll(async () => {
  pushed = await Pushed.create()
})

afterAll(() => pushed[Symbol.asyncDispose]())

const path = (name: string) => pushed.place.path(name)
const socketPath = () => path(`s${++sockets}`)
const vmmAt = (socket: string): Promise<Vmm> =>
  startVmm({ socket, image: path('memory'), regions: [{ sizeBytes: pushed.memory.length, offsetBytes: 0 }] })
const isThere = (file: string): Promise<boolean> =>
  stat(file).then(
    () => true,
    () => false,
  )

describe('serve nbd', () => {
  it('gives a client the image, and the socket goes with it', async () => {
    const socket = socketPath()
    await using serving = await pushed.serve(['serve', 'nbd', 'base', 'rootfs', '--socket', socket, '--socket-mode', '660'])
    expect(await serving.event('ready')).toMatchObject({ paths: [socket] })
    expect((await stat(socket)).mode & 0o777).toBe(0o660)
    const uri = `nbd+unix:///rootfs?socket=${socket}`
    expect(await runWell('nbdinfo', ['--size', uri])).toBe(`${pushed.rootfs.length}\n`)
    await runWell('nbdcopy', [uri, path('copy')])
    expect((await readFile(path('copy'))).equals(pushed.rootfs)).toBe(true)
    await serving.event('disconnected')
    expect(await serving.stop()).toEqual({ code: 0, stdout: '', stderr: '' })
    expect(serving.kinds.slice(0, 2)).toEqual(['ready', 'connected'])
    expect(serving.kinds.at(-1)).toBe('closed')
    expect(await isThere(socket)).toBe(false)
  })

  it('is on TCP too, and says which port it took', async () => {
    await using serving = await pushed.serve(['serve', 'nbd', 'base', 'rootfs', '--listen', ':0', '--export-name', 'disk'])
    const { paths } = await serving.event('ready')
    const [uri] = paths as string[]
    expect(uri).toMatch(/^nbd:\/\/127\.0\.0\.1:[1-9]\d*\/disk$/)
    await runWell('nbdcopy', [uri!, path('copy-tcp')])
    expect((await readFile(path('copy-tcp'))).equals(pushed.rootfs)).toBe(true)
    expect((await serving.stop('SIGINT')).code).toBe(0)
  })

  it.each<readonly [string, number, readonly string[]]>([
    ['NOT_FOUND', 1, ['base', 'disk', '--socket', 'x']],
    ['CONFLICT', 1, ['base', 'rootfs', '--socket', 'memory']],
    ['NOT_FOUND', 1, ['base', 'rootfs', '--socket', 'no/folder']],
    ['NOT_FOUND', 1, ['base', 'rootfs', '--listen', ':0', '--tls-cert', 'none', '--tls-key', 'none']],
    ['USAGE', 2, ['base', 'rootfs']],
    ['USAGE', 2, ['base', 'rootfs', '--socket', 'x', '--listen', ':1']],
    ['USAGE', 2, ['base', 'rootfs', '--listen', 'nowhere']],
    ['USAGE', 2, ['base', 'rootfs', '--socket', 'x', '--connections', '0']],
    ['USAGE', 2, ['base', 'rootfs', '--socket', 'x', '--tls-cert', 'c']],
  ])('cannot be: %s, exit code %d: %j', async (code, exitCode, args) => {
    const result = await pushed.place.run('serve', 'nbd', ...args, '--json')
    expect(JSON.parse(errorLine(result)).error.code).toBe(code)
    expect(result).toMatchObject({ code: exitCode, stdout: '' })
  })
})

describe('serve uffd', () => {
  it('gives a VMM its memory, and ends well with it', async () => {
    const socket = socketPath()
    await using serving = await pushed.serve(['serve', 'uffd', 'base', 'memory', '--socket', socket])
    await using vmm = await vmmAt(socket)
    expect(await vmm.verifyAll()).toMatchObject({ wrong: 0 })
    expect(await serving.event('connected')).toMatchObject({ frontEnd: 'uffd', image: 'memory', path: socket, pid: vmm.pid })
    await vmm.exit()
    expect(await serving.ended).toEqual({ code: 0, stdout: '', stderr: '' })
    expect(serving.kinds).toEqual(['ready', 'connected', 'disconnected', 'closed'])
    expect(await serving.event('closed')).toMatchObject({ reason: 'vmm-exit' })
    expect(await readdir(pushed.overlays)).toEqual([])
  })

  it('that is told to end takes the VMM along', async () => {
    const socket = socketPath()
    await using serving = await pushed.serve(['serve', 'uffd', 'base', 'memory', '--socket', socket])
    await using vmm = await vmmAt(socket)
    await serving.event('connected')
    expect(await serving.stop()).toEqual({ code: 0, stdout: '', stderr: '' })
    expect(await vmm.ended()).toEqual({ code: null, signal: 'SIGKILL' })
  })

  it('that is killed takes the VMM along too', async () => {
    const socket = socketPath()
    await using serving = await pushed.serve(['serve', 'uffd', 'base', 'memory', '--socket', socket])
    await using vmm = await vmmAt(socket)
    expect(await vmm.verify(0, 0, 8)).toMatchObject({ wrong: 0 })
    await serving.stop('SIGKILL')
    expect(await vmm.ended()).toEqual({ code: null, signal: 'SIGKILL' })
  })

  it('fails with the reason when it had to kill the VMM', async () => {
    const socket = socketPath()
    const store = path('thaw-store')
    await using serving = await pushed.serve(['serve', 'uffd', 'base', 'memory', '--socket', socket])
    await using vmm = await vmmAt(socket)
    await serving.event('connected')
    await rename(join(store, 'roots'), join(store, 'away'))
    try {
      await vmm.hang(0, 0).catch(() => undefined)
      const { code, stderr } = await serving.ended
      expect(code).toBe(1)
      expect(JSON.parse(stderr).error).toMatchObject({ object: serving.id, message: expect.stringMatching(/page 0\b.*NOT_FOUND/) })
      expect(serving.kinds).toEqual(['ready', 'connected', 'unreadable', 'killed', 'disconnected', 'closed'])
    } finally {
      await rename(join(store, 'away'), join(store, 'roots'))
    }
  })

  it('needs a socket', async () => {
    const result = await pushed.place.run('serve', 'uffd', 'base', 'memory')
    expect(result.code).toBe(2)
    expect(errorLine(result)).toContain('--socket')
  })
})

describe('restore', () => {
  it('serves with all front ends at once', async () => {
    const [uffd, nbd, fuse, file] = [socketPath(), socketPath(), path('all'), path('jail-state')]
    const images = ['--uffd', `memory=${uffd}`, '--nbd', `rootfs=${nbd}`, '--fuse', fuse, '--file', `state=${file}`]
    await using serving = await pushed.serve(['restore', 'base', ...images, '--writable'])
    expect((await serving.event('ready')).paths).toEqual([file, nbd, fuse, uffd])
    expect((await readFile(file)).equals(pushed.state)).toBe(true)
    expect((await stat(file)).mode & 0o777).toBe(0o600)
    await using vmm = await vmmAt(uffd)
    expect(await vmm.verifyAll()).toMatchObject({ wrong: 0 })
    await runWell('nbdcopy', [`nbd+unix:///?socket=${nbd}`, path('copy-all')])
    expect((await readFile(path('copy-all'))).equals(pushed.rootfs)).toBe(true)
    // A disk has one writer.
    await writeFile(join(fuse, 'state'), 'DEVICE', { flag: 'r+' })
    await expect(writeFile(join(fuse, 'rootfs'), 'x', { flag: 'r+' })).rejects.toMatchObject({ code: 'EROFS' })
    expect(await readFile(join(fuse, 'state'), 'utf8')).toBe('DEVICE state')
    // The VM is gone, and so is what was there for it.
    await vmm.exit()
    expect(await serving.ended).toEqual({ code: 0, stdout: '', stderr: '' })
    expect([await isThere(nbd), await isThere(fuse)]).toEqual([false, false])
    expect((await readFile(file)).equals(pushed.state)).toBe(true)
  })

  it('of files alone is done when they are written', async () => {
    const result = await pushed.place.run('restore', 'base', '--file', 'state=only-state', '--file', 'rootfs=only-rootfs')
    expect(result).toEqual({
      code: 0,
      stdout: expect.stringMatching(/^ready \S+ \S+only-state \S+only-rootfs\n$/),
      stderr: '',
    })
    expect((await readFile(path('only-rootfs'))).equals(pushed.rootfs)).toBe(true)
  })

  it('ends what it has begun if something cannot be', async () => {
    const socket = socketPath()
    const args = ['--nbd', `rootfs=${socket}`, '--uffd', 'nothing=y', '--fuse', path('begun')]
    const result = await pushed.place.run('restore', 'base', ...args)
    expect(result).toMatchObject({ code: 1, stdout: '' })
    expect(result.stderr).toContain('it has memory, rootfs, state')
    expect([await isThere(socket), await isThere(path('begun'))]).toEqual([false, false])
  })

  it.each<readonly [number, readonly string[]]>([
    [2, []],
    [2, ['--uffd', 'memory']],
    [2, ['--file', '=x']],
    [2, ['--nbd', 'rootfs=']],
  ])('exits with %d for wrong usage: %j', async (code, args) => {
    const result = await pushed.place.run('restore', 'base', ...args)
    expect(result).toMatchObject({ code, stdout: '' })
    errorLine(result)
  })
})

describe('--on-resume', () => {
  const serveNbd = (hook: string) => {
    const socket = socketPath()
    return {
      uri: `nbd+unix:///?socket=${socket}`,
      start: pushed.serve(['serve', 'nbd', 'base', 'rootfs', '--socket', socket, '--on-resume', hook]),
    }
  }

  it('is run once, and told which restore it is for', async () => {
    const { uri, start } = serveNbd('echo "$THAW_RESTORE $THAW_SNAPSHOT $THAW_RANDOM" >> hook-ran; echo noise')
    await using serving = await start
    expect(await isThere(path('hook-ran'))).toBe(false)
    await runWell('nbdinfo', ['--size', uri])
    await runWell('nbdinfo', ['--size', uri])
    expect(await serving.event('on-resume')).toMatchObject({ restore: serving.id, exitCode: 0, signal: null })
    await until(() => serving.kinds.filter(kind => kind === 'disconnected').length === 2)
    const lines = (await readFile(path('hook-ran'), 'utf8')).trimEnd().split('\n')
    expect(lines).toEqual([expect.stringMatching(new RegExp(`^${serving.id} ${pushed.id} [0-9a-f]{128}$`))])
    // What it prints is not the command's answer.
    expect(await serving.stop()).toMatchObject({ code: 0, stderr: 'noise\n' })
  })

  it('that fails is told of, and the restore goes on', async () => {
    const { uri, start } = serveNbd('exit 7')
    await using serving = await start
    await runWell('nbdinfo', ['--size', uri])
    expect(await serving.event('on-resume')).toMatchObject({ exitCode: 7 })
    await runWell('nbdcopy', [uri, path('copy-hook')])
    expect((await serving.stop()).code).toBe(0)
  })

  it.each([
    ['runs', 'sleep 600 & echo $! > hook-child; wait'],
    ['left something', 'sleep 600 & echo $! > hook-child'],
  ])('that still %s is killed at the end, with what it started', async (_, hook) => {
    await rm(path('hook-child'), { force: true })
    const { uri, start } = serveNbd(hook)
    await using serving = await start
    await runWell('nbdinfo', ['--size', uri])
    let pid = 0
    await until(async () => {
      pid = Number(await readFile(path('hook-child'), 'utf8').catch(() => ''))
      return pid > 0
    })
    expect(await isRunning(pid)).toBe(true)
    expect((await serving.stop()).code).toBe(0)
    await until(async () => !(await isRunning(pid)))
  })

  it('is not run when nobody comes', async () => {
    const { start } = serveNbd('touch hook-came')
    await using serving = await start
    expect((await serving.stop()).code).toBe(0)
    expect(await isThere(path('hook-came'))).toBe(false)
    expect(serving.kinds).toEqual(['ready', 'closed'])
  })
})

/** Not as a zombie. */
async function isRunning(pid: number): Promise<boolean> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '')
  return status !== '' && !/^State:\s*Z/m.test(status)
}

describe('a service manager', () => {
  it.each([
    ['a path', (name: string) => path(name)],
    ['an abstract name', (name: string) => `@${path(name)}`],
  ])('that listens at %s is told when it serves and when it ends', async (_, nameOf) => {
    const address = nameOf(`notify${++sockets}`)
    const { child, line } = receiver(address)
    try {
      expect(await line()).toBe('listening')
      const args = ['serve', 'nbd', 'base', 'rootfs', '--socket', socketPath()]
      await using serving = await pushed.serve(args, { NOTIFY_SOCKET: address })
      expect(await line()).toBe('READY=1')
      expect((await serving.stop()).code).toBe(0)
      expect(await line()).toBe('STOPPING=1')
    } finally {
      child.kill('SIGKILL')
    }
  })

  it('that is not there disturbs nothing', async () => {
    const args = ['serve', 'nbd', 'base', 'rootfs', '--socket', socketPath()]
    await using serving = await pushed.serve(args, { NOTIFY_SOCKET: path('nobody') })
    expect(await serving.stop()).toEqual({ code: 0, stdout: '', stderr: '' })
  })
})

/** Prints datagrams as lines: Node has no sockets for them. */
function receiver(address: string): { readonly child: ChildProcess; readonly line: () => Promise<string | undefined> } {
  const program = `
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1].replace('@', '\\0', 1) if sys.argv[1][0] == '@' else sys.argv[1])
print('listening', flush=True)
while True: print(s.recv(1000).decode(), flush=True)
`
  const child = spawn('/usr/bin/python3', ['-c', program, address], { stdio: ['ignore', 'pipe', 'inherit'] })
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]()
  return { child, line: async () => (await lines.next()).value }
}

describe('caches', () => {
  it('on a disk serve the next process', async () => {
    await mkdir(path('elsewhere'))
    const args = (socket: string) => ['serve', 'nbd', 'base', 'rootfs', '--socket', socket]
    const environment = { THAW_CACHE_DIR: path('cache'), THAW_STATE_DIR: path('elsewhere/state') }
    const read = async (): Promise<Record<string, { hits: number; misses: number }>> => {
      const socket = socketPath()
      await using serving = await pushed.serve(args(socket), environment)
      await runWell('nbdcopy', [`nbd+unix:///?socket=${socket}`, path('copy-cached')])
      const { processes } = JSON.parse(await pushed.place.mustRun('stats', '--json', '--state-dir', 'elsewhere/state'))
      expect((await serving.stop()).code).toBe(0)
      return processes[0].figures
    }
    expect(await read()).toMatchObject({ disk: { hits: 0 } })
    const second = await read()
    expect(second.disk!.hits).toBeGreaterThan(0)
    expect((await readFile(path('copy-cached'))).equals(pushed.rootfs)).toBe(true)
  })

  it('of no memory still serve', async () => {
    const socket = socketPath()
    await using serving = await pushed.serve(['serve', 'uffd', 'base', 'memory', '--socket', socket, '--cache-memory', '0'])
    await using vmm = await vmmAt(socket)
    expect(await vmm.verifyAll()).toMatchObject({ wrong: 0 })
    expect((await serving.stop()).code).toBe(0)
  })

  it('show their figures to Prometheus', async () => {
    const socket = socketPath()
    const child = pushed.place.start(['serve', 'nbd', 'base', 'rootfs', '--socket', socket, '--metrics', ':0', '--verbose'])
    try {
      const [[line]] = await Promise.all([once(createInterface(child.stderr), 'line'), once(child.stdout, 'data')])
      await runWell('nbdcopy', [`nbd+unix:///?socket=${socket}`, path('copy-metrics')])
      const [url] = /http:\S+/.exec(line)!
      expect(await (await fetch(url)).text()).toMatch(/^thaw_tier_hits_total\{tier="origin"\} [1-9]/m)
    } finally {
      child.kill('SIGTERM')
      await once(child, 'close')
    }
    expect(child.exitCode).toBe(0)
  })
})
