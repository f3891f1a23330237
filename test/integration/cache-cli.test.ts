/** The command line over a real Redis: prime, warm, pull, ls, clear, and that no password is shown. */
import { writeFile } from 'node:fs/promises'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { type Ended, ended, errorLine, Workplace } from '../cli/program.ts'
import { type RedisServer, startRedis } from '../servers/redis.ts'

const CHUNKS = 4
const PASSWORD = 's3cret-pass'

let place: Workplace
let redis: RedisServer
/** Without the password. */
let url: string
let id: string

beforeAll(async () => {
  redis = await startRedis({ password: PASSWORD })
  url = `redis://127.0.0.1:${redis.port}`
  place = await Workplace.create()
  await place.mustRun('init')
  await writeFile(place.path('password'), `${PASSWORD}\n`)
  await place.writeImage('a.img', CHUNKS)
  id = await place.mustRun('push', '--layer', 'os', '--tag', 'a', 'memory=a.img')
})

beforeEach(async () => {
  await redis.command('flushall')
})

afterAll(async () => {
  await place?.[Symbol.asyncDispose]()
  await redis?.stop()
})

const l2 = () => ['--l2', url, '--l2-password-file', 'password']

async function runWith(environment: Readonly<Record<string, string>>, ...args: readonly string[]): Promise<Ended> {
  const child = place.start(args, environment)
  child.stdin.end()
  return await ended(child)
}

const keys = async () => Number(await redis.command('dbsize'))

describe('L2 on the command line', () => {
  it('is primed by a push, and serves the next pull', async () => {
    const { counts } = await place.document('push', '--layer', 'os', '--prime', 'memory=a.img', ...l2())
    expect(counts).toMatchObject({ primedChunks: CHUNKS, primeFailures: 0 })
    expect(await keys()).toBe(CHUNKS + 1)
    const { servedBytes, fetchedBytes } = await place.document('pull', 'a', 'out', ...l2())
    expect(servedBytes).toEqual({ disk: 0, l2: fetchedBytes, origin: 0 })
  })

  it('is warmed, shown and cleared', async () => {
    expect(await place.document('cache', 'warm', 'a', '--tier', 'l2', ...l2())).toMatchObject({ id, primed: CHUNKS + 1 })
    expect((await place.document('cache', 'ls', ...l2())).tiers).toMatchObject([{ tier: 'l2', state: 'up', entries: CHUNKS + 1 }])
    expect(await place.document('cache', 'clear', ...l2())).toMatchObject({ cleared: [{ tier: 'l2', entries: CHUNKS + 1 }] })
    expect(await keys()).toBe(0)
  })

  it('takes its settings from the environment, the password too', async () => {
    const environment = { THAW_L2: url, THAW_L2_PASSWORD: PASSWORD }
    expect((await runWith(environment, 'cache', 'warm', 'a')).code).toBe(0)
    expect(await keys()).toBe(CHUNKS + 1)
  })

  it('shows a wrong password as what it is, and does not show it', async () => {
    const listed = await runWith({ THAW_L2: url, THAW_L2_PASSWORD: 'wrong-pass' }, 'cache', 'ls', '--json')
    expect(listed.code).toBe(0)
    expect(JSON.parse(listed.stdout).tiers).toMatchObject([{ state: 'down', remark: expect.stringContaining('DENIED') }])
    expect(listed.stdout + listed.stderr).not.toContain('wrong-pass')
  })

  it('may be missing: push and pull do without it', async () => {
    await redis.kill()
    try {
      const pushed = await place.run('push', '--layer', 'os', '--prime', 'memory=a.img', ...l2())
      expect(pushed.code).toBe(0)
      expect(errorLine(pushed)).toMatch(/^thaw: warning: /)
      const { servedBytes, fetchedBytes } = await place.document('pull', 'a', 'out', ...l2())
      expect(servedBytes).toEqual({ disk: 0, l2: 0, origin: fetchedBytes })
    } finally {
      await redis.restart()
    }
  })
})
