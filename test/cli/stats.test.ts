/** `thaw stats` and `--metrics`: what running commands tell of themselves, and what is left when they end. */
import type { ChildProcessWithoutNullStreams } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { createServer, request } from 'node:http'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { ended, Workplace } from './program.ts'

const WITHIN_MS = 20_000

let place: Workplace

beforeAll(async () => {
  place = await Workplace.create()
  await place.mustRun('init')
  await place.writeImage('a.img', 1)
  await place.mustRun('push', '--layer', 'os', '--tag', 'a', 'memory=a.img')
})

beforeEach(() => rm(place.path('state'), { recursive: true, force: true }))

afterAll(() => place[Symbol.asyncDispose]())

/** A push that waits for its standard input, announced in `state`. */
async function waitingPush(...args: readonly string[]): Promise<{ child: ChildProcessWithoutNullStreams; socket: string }> {
  const child = place.start(['push', '--layer', 'os', 'x:blob=-', '--cache-dir', 'cache', '--state-dir', 'state', ...args])
  try {
    return { child, socket: await socketOf(child) }
  } catch (error) {
    child.kill('SIGKILL')
    throw error
  }
}

async function socketOf({ pid }: ChildProcessWithoutNullStreams): Promise<string> {
  const signal = AbortSignal.timeout(WITHIN_MS)
  for (;;) {
    const name = (await sockets()).find(name => name.startsWith(`${pid}-`))
    if (name !== undefined) return join(place.path('state'), name)
    await sleep(20, undefined, { signal })
  }
}

const sockets = () => readdir(place.path('state')).catch((): string[] => [])
const processes = async () => (await place.document('stats', '--state-dir', 'state')).processes

function get(socketPath: string, path: string): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>()
  request({ socketPath, path, agent: false }, response => text(response).then(resolve, reject))
    .on('error', reject)
    .end()
  return promise
}

describe('stats', () => {
  it('says that nothing runs', async () => {
    const { code, stdout, stderr } = await place.run('stats', '--state-dir', 'state')
    expect({ code, stdout }).toEqual({ code: 0, stdout: '' })
    expect(stderr).toContain(place.path('state'))
    expect(await processes()).toEqual([])
  })

  it('shows a running command, until it ends', async () => {
    const { child, socket } = await waitingPush()
    try {
      expect([(await stat(place.path('state'))).mode & 0o777, (await stat(socket)).mode & 0o777]).toEqual([0o700, 0o600])
      expect(await processes()).toMatchObject([
        {
          pid: child.pid,
          socket,
          answered: true,
          command: 'push',
          startedAt: expect.stringMatching(/^\d{4}-.*Z$/),
          store: expect.stringContaining('thaw-store'),
          figures: { disk: { hits: 0, latency: { count: 0, p50Ms: null } }, l2: null, origin: { hedges: 0 } },
        },
      ])
      const shown = await place.mustRun('stats', '--state-dir', 'state')
      expect(shown).toContain(`process ${child.pid}: thaw push`)
      expect(shown).toMatch(/^disk +0 +0 +0 %/m)
      expect(await get(socket, '/metrics')).toContain('thaw_tier_hits_total{tier="disk"} 0')
    } finally {
      child.stdin.end('x')
      await ended(child)
    }
    expect(await sockets()).toEqual([])
  })

  it('removes what a killed process left', async () => {
    const { child } = await waitingPush()
    child.kill('SIGKILL')
    await once(child, 'close')
    expect(await sockets()).toHaveLength(1)
    expect(await processes()).toEqual([])
    expect(await sockets()).toEqual([])
  })

  it('finds nothing left of an interrupted process', async () => {
    const { child } = await waitingPush()
    child.kill('SIGINT')
    expect((await ended(child)).code).toBe(130)
    expect(await sockets()).toEqual([])
  })

  it('shows a process that does not answer as that', async () => {
    await mkdir(place.path('state'), { mode: 0o700 })
    const silent = createServer(() => undefined).listen(place.path('state/4242-0a.sock'))
    await once(silent, 'listening')
    try {
      expect(await processes()).toMatchObject([{ pid: 4242, answered: false }])
      expect(await place.mustRun('stats', '--state-dir', 'state')).toContain('process 4242 does not answer')
    } finally {
      silent.closeAllConnections()
      silent.close()
    }
  })

  it('costs a command that reads through no cache nothing, not even a folder', async () => {
    await place.mustRun('pull', 'a', 'out')
    expect(await readdir(place.folder)).not.toContain('thaw')
    await place.mustRun('pull', 'a', 'out', '--cache-dir', 'cache')
    expect(await readdir(place.path('thaw'))).toEqual([])
  })

  it('never fails a command: a state folder of no use is a note for who asks', async () => {
    await writeFile(place.path('state'), '')
    expect(await place.run('pull', 'a', 'out', '--quiet', '--state-dir', 'state')).toEqual({ code: 0, stdout: '', stderr: '' })
    const { code, stderr } = await place.run('pull', 'a', 'out', '--verbose', '--state-dir', 'state')
    expect(code).toBe(0)
    expect(stderr).toContain('thaw stats')
  })
})

describe('--metrics', () => {
  it('serves figures while the command runs', async () => {
    const { child } = await waitingPush('--metrics', ':0', '--verbose')
    let stderr = ''
    try {
      for await (const part of child.stderr.setEncoding('utf8')) {
        stderr += part
        if (/http:\S+\n/.test(stderr)) break
      }
      const [url = ''] = /http:\S+/.exec(stderr) ?? []
      expect(await (await fetch(url)).text()).toContain('thaw_tier_hits_total')
    } finally {
      child.stdin.end('x')
      await once(child, 'close')
    }
    expect(child.exitCode).toBe(0)
  })
})
