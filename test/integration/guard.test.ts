/**
 * What a guard does when its owner is killed, and what it leaves alone. Owners are processes (guard-child.ts) in a group of their own; what they watch are sleeping processes of this one, and small
 * file systems. Needs root, as CI has.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { mountIdsAt } from '../../src/guard/mounts.ts'
import type { GuardEvent } from '../../src/guard.ts'

/** A guard acts within a second; what does not come is found out before the test's own time is over. */
const PATIENCE_MS = 15_000
const KILLINGS = 4

const CHILD = join(import.meta.dirname, 'guard-child.ts')

let dir: string
const started = new Set<ChildProcess>()
const guards = new Set<number>()

beforeEach(async () => {
  // With a space, which the kernel's list of mounts escapes.
  dir = await mkdtemp(join(tmpdir(), 'thaw guard-'))
})

afterEach(async () => {
  for (const child of started) for (const pid of childrenOf(child.pid!)) guards.add(pid)
  for (const child of started) child.kill('SIGKILL')
  started.clear()
  for (const pid of guards) await gone(pid)
  guards.clear()
  for (const name of readdirSync(dir)) {
    const folder = join(dir, name)
    for (let left = mountIdsAt(folder).length; left > 0; left--) execFileSync('umount', ['-l', folder])
  }
  await rm(dir, { recursive: true })
})

class Owner {
  readonly child: ChildProcess
  readonly #answers: AsyncIterator<string>

  constructor() {
    this.child = spawn(process.execPath, [CHILD], { detached: true, stdio: ['pipe', 'pipe', 'inherit', 'pipe'] })
    started.add(this.child)
    this.#answers = createInterface({ input: this.child.stdout! })[Symbol.asyncIterator]()
  }

  async tell(command: string): Promise<unknown> {
    this.child.stdin!.write(`${command}\n`)
    const { value, done } = await this.#answers.next()
    if (done) throw new Error(`the owner ended at ${command}`)
    return JSON.parse(value)
  }

  /** Its one guard that runs. */
  guardPid(): Promise<number> {
    return until('a guard', async () => {
      const pids = (await this.tell('guard')) as number[]
      const alive = pids.filter(isAlive)
      for (const pid of alive) guards.add(pid)
      return alive.length === 1 ? alive[0] : undefined
    })
  }

  /** Resolves when so many events of a kind were told. */
  async told(kind: GuardEvent['kind'], count: number): Promise<void> {
    await until(`${count} × ${kind}`, async () => {
      const kinds = (await this.tell('events')) as string[]
      return kinds.filter(one => one === kind).length >= count || undefined
    })
  }

  /** Its group, as a terminal does. Resolves when it is gone. */
  async kill(signal: NodeJS.Signals): Promise<void> {
    const gone = once(this.child, 'exit')
    process.kill(-this.child.pid!, signal)
    await gone
  }
}

function sleeper(): ChildProcess {
  const child = spawn('sleep', ['1000'], { detached: true, stdio: 'ignore' })
  started.add(child)
  return child
}

async function killed(child: ChildProcess): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit', { signal: AbortSignal.timeout(PATIENCE_MS) })
  expect(child.signalCode).toBe('SIGKILL')
}

/** A zombie that nobody waits for is as good as gone. */
function isAlive(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) [ZX]/s.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    return false
  }
}

function childrenOf(pid: number): readonly number[] {
  try {
    return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number)
  } catch {
    return []
  }
}

async function gone(pid: number): Promise<void> {
  await until(`the end of ${pid}`, () => !isAlive(pid) || undefined)
}

async function until<T>(what: string, look: () => Promise<T | undefined> | T | undefined): Promise<T> {
  for (const giveUpAt = performance.now() + PATIENCE_MS; performance.now() < giveUpAt; await sleep(20)) {
    const found = await look()
    if (found !== undefined) return found
  }
  throw new Error(`not in time: ${what}`)
}

function mountFolder(name: string): string {
  const folder = join(dir, name)
  mkdirSync(folder)
  return folder
}

function mount(folder: string): void {
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', folder])
}

describe('an owner that is killed', () => {
  it.each(['SIGKILL', 'SIGINT', 'SIGTERM', 'SIGHUP'] as const)(
    'by %s to its group takes along what it watched, and nothing else',
    async signal => {
      const owner = new Owner()
      const [watched, released, foreign] = [sleeper(), sleeper(), sleeper()]
      await owner.tell(`process ${watched.pid}`)
      await owner.tell(`process ${released.pid}`)
      await owner.tell(`release ${released.pid}`)
      const guard = await owner.guardPid()
      await owner.kill(signal)
      await killed(watched)
      await gone(guard)
      expect(isAlive(released.pid!) && isAlive(foreign.pid!)).toBe(true)
    },
  )

  it('while it was busy takes along what it watched', async () => {
    const owner = new Owner()
    const watched = sleeper()
    await owner.tell(`process ${watched.pid}`)
    await owner.tell('busy')
    await owner.kill('SIGKILL')
    await killed(watched)
  })

  it('leaves no mount that came while it watched, and those that were there before or were released', async () => {
    const owner = new Owner()
    const [late, early, both, released] = ['late', 'early', 'both', 'released'].map(mountFolder) as [string, string, string, string]
    for (const folder of [early, both]) mount(folder)
    const ids = [early, both].map(mountIdsAt)
    await owner.tell('guard')
    for (const folder of [late, early, both, released]) await owner.tell(`mount ${folder}`)
    for (const folder of [late, both, released]) mount(folder)
    await owner.tell(`release ${released}`)
    const guard = await owner.guardPid()
    await owner.kill('SIGKILL')
    await gone(guard)
    expect([late, early, both].map(mountIdsAt)).toEqual([[], ...ids])
    expect(mountIdsAt(released)).toHaveLength(1)
  })

  it('and one that ends without a word, take along what they watched', async () => {
    const owner = new Owner()
    const watched = sleeper()
    await owner.tell(`process ${watched.pid}`)
    const exit = once(owner.child, 'exit')
    await owner.tell('leave')
    expect(await exit).toEqual([0, null])
    await killed(watched)
  })
})

describe('an owner that closes its guard', () => {
  it('kills nothing, and the guard is gone', async () => {
    const owner = new Owner()
    const watched = sleeper()
    await owner.tell(`process ${watched.pid}`)
    const guard = await owner.guardPid()
    await owner.tell('close')
    expect(isAlive(guard)).toBe(false)
    expect(await owner.tell('after')).toBe('CLOSED')
    await owner.kill('SIGKILL')
    expect(isAlive(watched.pid!)).toBe(true)
  })

  it('in one place of two keeps it', async () => {
    const owner = new Owner()
    const watched = sleeper()
    await owner.tell(`process ${watched.pid}`)
    await owner.tell('second')
    await owner.kill('SIGKILL')
    await killed(watched)
  })
})

describe('a guard that is gone', () => {
  it('is replaced by one that knows everything', async () => {
    const owner = new Owner()
    const folder = mountFolder('late')
    const [before, after] = [sleeper(), sleeper()]
    await owner.tell(`process ${before.pid}`)
    await owner.tell(`mount ${folder}`)
    mount(folder)
    const first = await owner.guardPid()
    process.kill(first, 'SIGKILL')
    await owner.tell(`process ${after.pid}`)
    await owner.told('restored', 1)
    const second = await owner.guardPid()
    expect(second).not.toBe(first)
    expect(isAlive(before.pid!)).toBe(true)
    await owner.kill('SIGKILL')
    await Promise.all([killed(before), killed(after), gone(second)])
    expect(mountIdsAt(folder)).toEqual([])
  })

  it('is one that does not answer, too', async () => {
    const owner = new Owner()
    const watched = sleeper()
    const first = await owner.guardPid()
    await owner.tell('hurry 10')
    process.kill(first, 'SIGSTOP')
    await owner.tell(`process ${watched.pid}`)
    await owner.told('restored', 1)
    expect(isAlive(first)).toBe(false)
    await owner.kill('SIGKILL')
    await killed(watched)
  })

  it('again and again is told of and replaced each time; nothing is killed', async () => {
    const owner = new Owner()
    const [before, meanwhile] = [sleeper(), sleeper()]
    await owner.tell(`process ${before.pid}`)
    const pids = new Set<number>()
    for (let killings = 1; killings <= KILLINGS; killings++) {
      const pid = await owner.guardPid()
      pids.add(pid)
      process.kill(pid, 'SIGKILL')
      await owner.told('lost', killings)
      if (killings === KILLINGS) await owner.tell(`process ${meanwhile.pid}`)
      await owner.told('restored', killings)
    }
    expect(pids.size).toBe(KILLINGS)
    expect(isAlive(before.pid!) && isAlive(meanwhile.pid!)).toBe(true)
    await owner.kill('SIGKILL')
    await Promise.all([killed(before), killed(meanwhile)])
  })
})

describe('a guard', () => {
  it('stays when it is told to end, as a service manager tells all processes of a group', async () => {
    const owner = new Owner()
    const watched = sleeper()
    const guard = await owner.guardPid()
    for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGPIPE', 'SIGALRM', 'SIGUSR1', 'SIGUSR2'] as const)
      process.kill(guard, signal)
    await owner.tell(`process ${watched.pid}`)
    expect(await owner.guardPid()).toBe(guard)
    expect(await owner.tell('events')).toEqual([])
    await owner.kill('SIGKILL')
    await killed(watched)
  })

  it('holds no descriptor of its owner', async () => {
    const owner = new Owner()
    const watched = sleeper()
    await owner.tell(`process ${watched.pid}`)
    const folder = `/proc/${await owner.guardPid()}/fd`
    const targets = readdirSync(folder).map(fd => readlinkSync(join(folder, fd)))
    const unpaired = targets.filter(target => target.startsWith('pipe:') && targets.indexOf(target) === targets.lastIndexOf(target))
    expect(unpaired).toEqual([])
    const kinds = targets
      .map(target => target.replace(/:\[\d+\]$/, ''))
      .filter(kind => !/^(pipe|anon_inode:\[event|anon_inode:\[io_uring|\/dev\/null)/.test(kind))
    expect(kinds.sort()).toEqual(['anon_inode:[pidfd]', 'socket', 'socket'])
  })

  it('takes a process that has ended, and no descriptor that is none', async () => {
    const owner = new Owner()
    expect(await owner.tell('ended')).toBe(null)
    expect(await owner.tell('wrong')).toBe('RangeError')
  })
})
