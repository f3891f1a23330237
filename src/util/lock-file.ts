/**
 * One process at a time, by a file beside what it protects: for updates that take milliseconds and happen rarely (a tenant added to a keyring); and, without
 * waiting, for what one process does for as long as it lives (`tryLockFile`).
 *
 * Invariants
 * - The lock file comes into being whole, by `link`, so nobody reads half a holder.
 * - A lock is broken only when its holder is known to be dead: a process of this machine and pid namespace that no longer exists. A holder
 *   elsewhere (another container, a network file system) cannot be seen, so its lock is waited for, and never broken.
 * - Two who find the same dead holder do not break each other's new lock: a breaker first links the lock to a name made of the holder's
 *   token, which only one can do, and removes the lock only if it is still that holder's.
 *
 * Why not flock(2): Node has none.
 */
import { randomBytes } from 'node:crypto'
import { link, readFile, readlink, rm, writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { fromErrno, ThawError } from '../errors.ts'
import { isErrno } from './atomic-file.ts'
import { type Clock, systemClock } from './clock.ts'

const WAIT_MS = 10_000
const POLL_MS = 10

/** What a lock file says, on three lines. */
export interface Holder {
  /** Random: tells two locks of one process apart. */
  readonly token: string
  readonly pid: number
  /** Where `pid` means something: host and pid namespace. */
  readonly place: string
}

/** Runs `work` while holding the lock. TIMEOUT if others hold it for ten seconds; what `work` throws is passed on. */
export async function withLockFile<T>(lockPath: string, work: () => Promise<T>, clock: Clock = systemClock): Promise<T> {
  const holder = await newHolder()
  const ownPath = `${lockPath}.${holder.token}`
  try {
    await writeHolder(ownPath, holder)
    await acquire(lockPath, ownPath, clock)
  } catch (error) {
    throw fromErrno(error, 'cannot lock', lockPath)
  } finally {
    await rm(ownPath, { force: true })
  }
  try {
    return await work()
  } finally {
    await rm(lockPath, { force: true })
  }
}

async function acquire(lockPath: string, ownPath: string, clock: Clock): Promise<void> {
  const deadline = clock.now() + WAIT_MS
  while (!(await linked(ownPath, lockPath))) {
    const holder = await readHolder(lockPath)
    if (clock.now() >= deadline) {
      throw new ThawError('TIMEOUT', `${lockPath} is held by process ${holder?.pid ?? '?'}: remove it if no thaw is running`, {
        object: lockPath,
      })
    }
    if (holder !== undefined && (await isDead(holder))) await breakLock(lockPath, holder)
    await clock.sleep(POLL_MS * (1 + clock.random()))
  }
}

/**
 * One try, for locks that are kept for long: what this process holds now, or undefined if somebody has the lock who is not known to be dead. Whoever
 * takes a lock so must expect to lose it to someone with other means to tell who is dead. Raw errors of `node:fs`.
 */
export async function tryLockFile(lockPath: string): Promise<Holder | undefined> {
  const holder = await newHolder()
  const ownPath = `${lockPath}.${holder.token}`
  try {
    await writeHolder(ownPath, holder)
    if (await linked(ownPath, lockPath)) return holder
    const other = await readHolder(lockPath)
    if (other === undefined || !(await isDead(other))) return undefined
    await breakLock(lockPath, other)
    return (await linked(ownPath, lockPath)) ? holder : undefined
  } finally {
    await rm(ownPath, { force: true })
  }
}

/** Removes the lock of a holder known to be dead; any other lock, one that has come in its place too, stays. */
export async function breakLock(lockPath: string, dead: Holder): Promise<void> {
  const claimPath = `${lockPath}.${dead.token}.broken`
  try {
    if (!(await linked(lockPath, claimPath))) return
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return
    throw error
  }
  try {
    const found = await readHolder(claimPath)
    if (found?.token === dead.token) await rm(lockPath, { force: true })
  } finally {
    await rm(claimPath, { force: true })
  }
}

/** Whether the process that holds it is known to be gone: one elsewhere never is. */
export async function isDead(holder: Holder): Promise<boolean> {
  if (holder.place !== (await here())) return false
  try {
    process.kill(holder.pid, 0)
    return false
  } catch (error) {
    return isErrno(error, 'ESRCH')
  }
}

/** Undefined if there is no lock, or what is there is not one of ours: that is waited for like any other. */
export async function readHolder(path: string): Promise<Holder | undefined> {
  try {
    const [token = '', pid = '', place = ''] = (await readFile(path, 'utf8')).split('\n')
    return /^[0-9a-f]{16}$/.test(token) && /^[1-9]\d*$/.test(pid) ? { token, pid: Number(pid), place } : undefined
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return undefined
    throw error
  }
}

async function linked(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to)
    return true
  } catch (error) {
    if (isErrno(error, 'EEXIST')) return false
    throw error
  }
}

async function newHolder(): Promise<Holder> {
  return { token: randomBytes(8).toString('hex'), pid: process.pid, place: await here() }
}

function writeHolder(path: string, { token, pid, place }: Holder): Promise<void> {
  return writeFile(path, `${token}\n${pid}\n${place}\n`, { flag: 'wx', mode: 0o600 })
}

async function here(): Promise<string> {
  return `${hostname()} ${await readlink('/proc/self/ns/pid')}`
}
