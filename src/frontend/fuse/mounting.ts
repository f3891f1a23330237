/**
 * Putting a mount into the tree and taking it off again.
 *
 * The folder is opened once and mounted at by its descriptor, so that nobody who may write to a folder above it can lead the mount elsewhere, and no program is started for it
 * (fsopen, fsmount, move_mount: Linux 5.2). To take it off, the program `umount` is: that may wait for dirty pages to be written, and so for a guest's pager. Neither
 * this thread may wait for that, nor one of libuv's four, by which the disk cache reads what the pager wants.
 *
 * /dev/fuse is open in this process alone: whoever reads gets an error when the last descriptor is closed, and would wait for ever at one that was forgotten. Mounts are known by
 * their device, for at their path there may be others.
 */
import assert from 'node:assert/strict'
import type { ChildProcess } from 'node:child_process'
import { closeSync, constants, openSync, readdirSync, readFileSync, readlinkSync, rmdirSync } from 'node:fs'
import { open, readFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fromErrno, ThawError } from '../../errors.ts'
import { TRANSFER_BYTES_MAX } from '../../pager.ts'
import { deviceOf, type ListedMount, listMounts, topMountAt } from '../../util/mounts.ts'
import { loadNative, type Native } from '../../util/native.ts'
import { openFolder } from '../../util/open-folder.ts'
import { startProgram } from '../../util/start-program.ts'
import { systemError } from '../../util/system-error.ts'

/** Type and subtype as `mount` and `df` show them. */
const FILE_SYSTEM = 'fuse'
const SUBTYPE = 'thaw'
const LISTED_TYPE = `${FILE_SYSTEM}.${SUBTYPE}`
/** <linux/mount.h>: of fsopen, fsconfig and fsmount. */
const FSOPEN_CLOEXEC = 1
const FSCONFIG_SET_FLAG = 0
const FSCONFIG_SET_STRING = 1
const FSCONFIG_CMD_CREATE = 6
const FSMOUNT_CLOEXEC = 1
/** <sys/mount.h> */
const MNT_DETACH = 2
const UMOUNT_NOFOLLOW = 8
const MOUNT_ATTR = { readOnly: 1, noSuid: 2, noDevices: 4 } as const
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
  /** How many folders at the end of the path were made for it. */
  readonly made: number
  /** O_PATH, until it is mounted at. */
  fd: number | undefined
  /** O_PATH, of the folder above, in which nobody can rename what is mounted at: by way of it the mount is taken off, though no descriptor be left. */
  parentFd: number | undefined
}

export interface MountSettings {
  readonly fd: number
  /** What `mount` and `df` show. */
  readonly source: string
  readonly isWritable: boolean
  readonly allowOther: boolean
}

/**
 * A folder that is there and empty, and stays open until it is mounted at or released. What is left of a mount whose server died is taken off.
 * @throws CONFLICT if it is not empty, or behind a link of another user; NOT_FOUND if it is not a folder; DENIED, UNAVAILABLE
 */
export async function prepareFolder(dir: string): Promise<MountFolder> {
  const native = await loadNative('a mount')
  try {
    return await openEmpty(native, dir)
  } catch (error) {
    throw fromErrno(error, 'cannot mount at', dir)
  }
}

async function openEmpty(native: Native, dir: string): Promise<MountFolder> {
  const { fd, made } = openFolder(native, dir, true)
  try {
    const here = `/proc/self/fd/${fd}`
    const path = readlinkSync(here)
    if (readdirSync(here).length > 0) throw new ThawError('CONFLICT', `cannot mount at ${dir}: it is not empty`, { object: dir })
    return { path, made, fd, parentFd: openFolder(native, dirname(path)).fd }
  } catch (error) {
    const path = readlinkSync(`/proc/self/fd/${fd}`)
    closeSync(fd)
    const dead = isCode(error, 'ENOTCONN') ? topMountAt(path) : undefined
    if (dead?.type !== LISTED_TYPE || !withFolder(native, dirname(path), parent => detach(native, path, parent))) throw error
    return await openEmpty(native, dir)
  }
}

/** Lets go of the folder. Folders that were made for a mount are removed, if nothing was put there meanwhile. Idempotent, does not reject. */
export async function releaseFolder(folder: MountFolder): Promise<void> {
  const native = await loadNative('a mount')
  for (const fd of [folder.fd, folder.parentFd]) if (fd !== undefined) closeSync(fd)
  folder.fd = undefined
  folder.parentFd = undefined
  try {
    for (let path = folder.path, left = folder.made; left > 0; path = dirname(path), left--) {
      withFolder(native, dirname(path), fd => rmdirSync(`/proc/self/fd/${fd}/${basename(path)}`))
    }
  } catch {
    // Somebody uses it.
  }
}

function withFolder<T>(native: Native, path: string, use: (fd: number) => T): T {
  const { fd } = openFolder(native, path)
  try {
    return use(fd)
  } finally {
    closeSync(fd)
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
export async function mountAt(folder: MountFolder, settings: MountSettings): Promise<string> {
  const native = await loadNative('a mount')
  assert(folder.fd !== undefined)
  try {
    return mountNow(native, folder.fd, settings)
  } catch (error) {
    throw await mountError(folder.path, error instanceof Error ? error.message : String(error))
  } finally {
    closeSync(folder.fd)
    folder.fd = undefined
  }
}

function mountNow(native: Native, folder: number, { fd, source, isWritable, allowOther }: MountSettings): string {
  const context = checked(native, 'fsopen', native.fsopen(text(FILE_SYSTEM), FSOPEN_CLOEXEC))
  let mount = -1
  try {
    const values = {
      source,
      subtype: SUBTYPE,
      fd,
      rootmode: ROOT_MODE,
      user_id: process.getuid!(),
      group_id: process.getgid!(),
      max_read: TRANSFER_BYTES_MAX,
    }
    const flags = ['default_permissions', isWritable ? 'rw' : 'ro', ...(allowOther ? ['allow_other'] : [])]
    for (const [key, value] of Object.entries(values)) {
      checked(native, `fsconfig ${key}`, native.fsconfig(context, FSCONFIG_SET_STRING, text(key), text(String(value))))
    }
    for (const flag of flags) checked(native, `fsconfig ${flag}`, native.fsconfig(context, FSCONFIG_SET_FLAG, text(flag), null))
    checked(native, 'fsconfig', native.fsconfig(context, FSCONFIG_CMD_CREATE, null, null))
    const attributes = MOUNT_ATTR.noSuid | MOUNT_ATTR.noDevices | (isWritable ? 0 : MOUNT_ATTR.readOnly)
    mount = checked(native, 'fsmount', native.fsmount(context, FSMOUNT_CLOEXEC, attributes))
    checked(native, 'move_mount', native.moveMount(mount, folder))
    return deviceOfMount(native, mount)
  } finally {
    if (mount >= 0) closeSync(mount)
    closeSync(context)
  }
}

/** Of a mount that is in the tree. One of which it cannot be known is taken off again. */
function deviceOfMount(native: Native, mount: number): string {
  try {
    const id = Number(/^mnt_id:\s*(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${mount}`, 'latin1'))?.[1])
    const listed = listMounts().find(one => one.id === id)
    if (listed === undefined) throw new Error('it was taken off at once')
    return listed.device
  } catch (error) {
    native.umount2(text(`/proc/self/fd/${mount}`), MNT_DETACH)
    throw error
  }
}

function checked(native: Native, call: string, result: number): number {
  if (result < 0) throw systemError(native, call)
  return result
}

/** On memory of its own, which does not move. */
function text(value: string): Buffer {
  const bytes = Buffer.from(`${value}\0`)
  return Buffer.from(new Uint8Array(bytes).buffer)
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
 * @returns `busy`: it is in use still; `gone`: somebody else took it off, or mounted something over it
 */
export async function unmountAt(folder: MountFolder, device: string): Promise<'off' | 'gone' | 'busy'> {
  const giveUpAt = performance.now() + BUSY_MS
  do {
    if (!mayBeOnTop(folder.path, device)) return 'gone'
    if ((await takeOff(folder)) === undefined) return 'off'
    await sleep(TRY_AGAIN_MS)
  } while (performance.now() < giveUpAt)
  return 'busy'
}

/** Takes off what is dead: without asking its server anything. */
export async function detachAt({ path, parentFd }: MountFolder, device: string): Promise<void> {
  const native = await loadNative('a mount')
  if (onTop(path, device) !== undefined) detach(native, path, parentFd!)
}

/** Where it is now, if a folder above it was renamed. What somebody mounted over it stays, and it with it. */
function onTop(path: string, device: string): ListedMount | undefined {
  const ours = listMounts().filter(mount => mount.device === device)
  const mount = ours.find(one => one.path === path) ?? ours[0]
  return mount !== undefined && topMountAt(mount.path)?.id === mount.id ? mount : undefined
}

/** So it is while nobody can tell, because no descriptor is left: what is in it may be needed. */
function mayBeOnTop(path: string, device: string): boolean {
  try {
    return onTop(path, device) !== undefined
  } catch {
    return true
  }
}

/** @returns why it failed, or undefined */
function takeOff({ path, parentFd }: MountFolder): Promise<string | undefined> {
  return run('umount', ['-i', '-c', `/proc/self/fd/3/${basename(path)}`], parentFd)
}

/** Out of the tree at once, though it be in use. */
function detach(native: Native, path: string, parentFd: number): boolean {
  return native.umount2(text(`/proc/self/fd/${parentFd}/${basename(path)}`), MNT_DETACH | UMOUNT_NOFOLLOW) === 0
}

/** Runs a program, with a descriptor as its 3. @returns why it failed, or undefined */
async function run(program: string, args: readonly string[], fd?: number): Promise<string | undefined> {
  try {
    const child = await startProgram(program, args, {
      stdio: ['ignore', 'ignore', 'pipe', ...(fd === undefined ? [] : [fd])],
      timeout: PROGRAM_TIMEOUT_MS,
      killSignal: 'SIGKILL',
      env: { ...process.env, LC_ALL: 'C' },
    })
    return await failureOf(child, program)
  } catch (error) {
    return `${program}: ${error instanceof Error ? error.message : error}`
  }
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

/**
 * Has what was written to a file of a mount through mappings arrive: the kernel sends it, and waits for the answers.
 * @throws CONFLICT if the mount is not to be found at its place, though somebody may still use it; NO_SPACE, UNAVAILABLE
 */
export async function flushFile(path: string, device: string, name: string): Promise<void> {
  const mount = onTop(path, device)
  if (mount === undefined) throw unreachable(path)
  const file = join(mount.path, name)
  try {
    await using handle = await open(file, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
    // Of two mounts at one path, or of something over a folder above it, this one need not be what was opened.
    if (deviceOf((await handle.stat()).dev) !== device) throw unreachable(path)
    await handle.sync()
  } catch (error) {
    throw fromErrno(error, 'cannot write what was changed in', file)
  }
}

function unreachable(path: string): ThawError {
  const message = `the mount at ${path} was taken off or covered while it is in use: what was written to it cannot be asked for`
  return new ThawError('CONFLICT', message, { object: path })
}

function isCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code
}
