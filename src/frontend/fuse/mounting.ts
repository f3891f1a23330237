/**
 * Putting a mount into the tree and taking it off again, by the programs `mount` and `umount`: they know the kernel's ways, and while they wait for it nobody else does.
 *
 * /dev/fuse is open in this process alone, but for the moment that `mount` has it: whoever reads gets an error when the last descriptor is closed, and would wait for ever at one
 * that was forgotten. Mounts are known by their device, for at their path there may be others.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { constants, openSync } from 'node:fs'
import { open, readdir, readFile, realpath, rmdir } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fromErrno, ThawError } from '../../errors.ts'
import { TRANSFER_BYTES_MAX } from '../../pager.ts'
import { makeFolders } from '../../util/make-folders.ts'

const FILE_SYSTEM = 'fuse.thaw'
const MOUNTS = '/proc/self/mountinfo'
/** What a program of a line's work may take; unmounting writes dirty pages first. */
const PROGRAM_TIMEOUT_MS = 30_000
const STDERR_CHARS_MAX = 2000
/** How long a mount that is in use is tried again, before it is taken off all the same: whoever was told to end has a moment for it. */
const BUSY_MS = 1000
const TRY_AGAIN_MS = 50
/** Bit of CapEff in /proc/self/status. */
const CAP_SYS_ADMIN = 21n
/** No namespace of users of our own: /proc/self/uid_map. */
const ALL_IDS = /^\s*0\s+0\s+4294967295\s*$/
/** Of the folder that is mounted. */
const ROOT_MODE = '40000'

/** A folder to mount at. */
export interface MountFolder {
  /** Absolute, without links. */
  readonly path: string
  /** The topmost folder that was made for it. */
  readonly made: string | undefined
}

export interface MountSettings {
  readonly fd: number
  /** What `mount` and `df` show. */
  readonly source: string
  readonly isWritable: boolean
  readonly allowOther: boolean
}

/**
 * A folder that is there and empty. What is left of a mount whose server died is taken off.
 * @throws CONFLICT if it is not empty; NOT_FOUND if it is not a folder; DENIED, UNAVAILABLE
 */
export async function prepareFolder(dir: string): Promise<MountFolder> {
  try {
    const made = await makeFolder(resolve(dir))
    const path = await realpath(dir)
    if ((await readdir(path)).length > 0) throw new ThawError('CONFLICT', `cannot mount at ${dir}: it is not empty`, { object: dir })
    return { path, made }
  } catch (error) {
    throw fromErrno(error, 'cannot mount at', dir)
  }
}

async function makeFolder(path: string): Promise<string | undefined> {
  try {
    // A look into it, not at it: what the kernel remembers of a dead mount's root may still be good.
    await readdir(path)
    return undefined
  } catch (error) {
    if (!isCode(error, 'ENOTCONN') && !isCode(error, 'ENOENT')) throw error
    if (isCode(error, 'ENOENT')) return await makeFolders(path)
    const point = join(await realpath(dirname(path)), basename(path))
    const top = topAt(point, await listMounts())
    if (top?.type !== FILE_SYSTEM || !(await detach(point))) throw error
    return undefined
  }
}

/** Removes folders that were made for a mount, if nothing was put there meanwhile. */
export async function removeMadeFolders({ path, made }: MountFolder): Promise<void> {
  if (made === undefined) return
  try {
    for (let folder = path; folder.startsWith(made); folder = dirname(folder)) await rmdir(folder)
  } catch {
    // Somebody uses it.
  }
}

/** @returns a descriptor, non-blocking. @throws UNSUPPORTED without FUSE in the kernel; DENIED */
export function openFuseDevice(): number {
  try {
    return openSync('/dev/fuse', constants.O_RDWR | constants.O_NONBLOCK)
  } catch (error) {
    if (isCode(error, 'ENOENT') || isCode(error, 'ENODEV') || isCode(error, 'ENXIO')) {
      throw new ThawError('UNSUPPORTED', 'the kernel has no FUSE here: load the module `fuse`, or give the container /dev/fuse', {
        cause: error,
      })
    }
    throw fromErrno(error, 'cannot open', '/dev/fuse')
  }
}

/**
 * Mounts. The kernel's first request waits at the descriptor then.
 * @returns the device, by which the mount is known
 * @throws DENIED where this process may not mount; UNSUPPORTED
 */
export async function mountAt(path: string, { fd, source, isWritable, allowOther }: MountSettings): Promise<string> {
  const ids = `user_id=${process.getuid!()},group_id=${process.getgid!()}`
  const access = `${isWritable ? 'rw' : 'ro'},nosuid,nodev,default_permissions${allowOther ? ',allow_other' : ''}`
  const options = `fd=3,rootmode=${ROOT_MODE},${ids},max_read=${TRANSFER_BYTES_MAX},${access}`
  const failure = await run('mount', ['-i', '-t', FILE_SYSTEM, '-o', options, source, path], fd)
  if (failure !== undefined) throw await mountError(path, failure)
  const mounted = topAt(path, await listMounts())
  if (mounted?.type !== FILE_SYSTEM) throw new ThawError('CONFLICT', `the mount at ${path} was taken off at once`, { object: path })
  return mounted.device
}

async function mountError(path: string, failure: string): Promise<ThawError> {
  const [status, ids] = await Promise.all([readFile('/proc/self/status', 'utf8'), readFile('/proc/self/uid_map', 'utf8')])
  const capabilities = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)/m.exec(status)?.[1] ?? '0'}`)
  const isAllowed = process.geteuid!() === 0 && ((capabilities >> CAP_SYS_ADMIN) & 1n) === 1n && ALL_IDS.test(ids)
  if (isAllowed) return new ThawError('UNSUPPORTED', `cannot mount at ${path}: ${failure}`, { object: path })
  const advice = 'run as root, or within `unshare --user --map-root-user --mount`'
  return new ThawError('DENIED', `cannot mount at ${path}, this needs CAP_SYS_ADMIN: ${advice} (${failure})`, { object: path })
}

/**
 * Takes a mount off when nobody uses it, which is waited for for a moment.
 * @returns false if it is in use still
 */
export async function unmountAt(path: string, device: string): Promise<boolean> {
  const giveUpAt = performance.now() + BUSY_MS
  do {
    // What somebody mounted over it stays.
    if (!(await isOnTop(path, device)) || (await run('umount', ['-i', path])) === undefined) return true
    await sleep(TRY_AGAIN_MS)
  } while (performance.now() < giveUpAt)
  return false
}

/** Takes off what is dead: without asking its server anything. */
export async function detachAt(path: string, device: string): Promise<void> {
  if (await isOnTop(path, device)) await detach(path)
}

/** Without asking its server anything. */
async function detach(path: string): Promise<boolean> {
  return (await run('umount', ['-i', '-l', '-c', path])) === undefined
}

async function isOnTop(path: string, device: string): Promise<boolean> {
  return topAt(path, await listMounts())?.device === device
}

interface ListedMount {
  readonly device: string
  readonly path: string
  readonly type: string
}

async function listMounts(): Promise<ListedMount[]> {
  return parseMounts(await readFile(MOUNTS, 'utf8'))
}

/** What is seen at a path. */
function topAt(path: string, mounts: readonly ListedMount[]): ListedMount | undefined {
  return mounts.findLast(mount => mount.path === path)
}

/** In the order they were mounted. Fields of a line: proc_pid_mountinfo(5). */
function parseMounts(text: string): ListedMount[] {
  const lines = text.split('\n').filter(line => line !== '')
  return lines.map(line => {
    const [before = '', after = ''] = line.split(' - ')
    const [, , device = '', , point = ''] = before.split(' ')
    // Space, tab, newline and backslash are written in octal.
    const path = point.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)))
    return { device, path, type: after.split(' ')[0] ?? '' }
  })
}

/** Runs a program, with a descriptor as its 3. @returns why it failed, or undefined */
async function run(program: string, args: readonly string[], fd?: number): Promise<string | undefined> {
  const child = spawn(program, args, {
    stdio: ['ignore', 'ignore', 'pipe', ...(fd === undefined ? [] : [fd])],
    timeout: PROGRAM_TIMEOUT_MS,
    killSignal: 'SIGKILL',
    env: { ...process.env, LC_ALL: 'C' },
  })
  return await failureOf(child, program)
}

function failureOf(child: ChildProcess, program: string): Promise<string | undefined> {
  let said = ''
  child.stderr!.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(0, STDERR_CHARS_MAX)
  })
  return new Promise(settle => {
    child.on('error', error => settle(`${program}: ${error.message}`))
    child.on('close', (code, signal) => settle(code === 0 ? undefined : said.trim().split('\n')[0] || `${program}: ${signal ?? code}`))
  })
}

/** Has what was written to a file through mappings arrive: the kernel sends it, and waits for the answers. @throws NO_SPACE, UNAVAILABLE */
export async function flushFile(path: string): Promise<void> {
  try {
    const file = await open(path, constants.O_RDONLY)
    try {
      await file.sync()
    } finally {
      await file.close()
    }
  } catch (error) {
    throw fromErrno(error, 'cannot write what was changed in', path)
  }
}

function isCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code
}
