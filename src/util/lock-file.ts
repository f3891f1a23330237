/**
 * One process at a time, by flock(2) on a file beside what it protects: for updates that take
 * milliseconds and happen rarely (a tenant added to a keyring), and for what one process owns for as
 * long as it lives (a restore's overlay, the disk cache's folder).
 *
 * The kernel gives a lock back when the last descriptor of its open file is closed, however the
 * process ended. So nobody ever judges whether a holder is alive, and there is no state that a crash
 * could leave: a lock file without a holder is taken like any other. It holds between all processes
 * of a host, whatever their containers, and between two holders of one process.
 *
 * A lock file may be removed by whoever holds it. Another one that has the removed file open by then
 * would lock a file without a name, so whoever gets a lock looks whether its name still means it.
 */
import fs from 'node:fs'
import { constants } from 'node:os'
import { fromErrno, ThawError } from '../errors.ts'
import { isErrno } from './atomic-file.ts'
import { type Clock, systemClock } from './clock.ts'
import { systemErrorOf } from './system-error.ts'

const WAIT_MS = 10_000
const POLL_MS = 10
const MODE = 0o600
/** <sys/file.h>: exclusive, not waiting. */
const LOCK_EX_NB = 2 | 4

const { O_CREAT, O_RDONLY, O_RDWR, O_WRONLY, O_NOFOLLOW, O_NONBLOCK } = fs.constants

type TryFlock = (fd: number) => boolean

export interface LockOptions {
  /** Only if the file is there. */
  readonly existing?: boolean
}

/** A lock that this process holds, until `release` or its end. */
export class LockFile implements Disposable {
  readonly #path: string
  readonly #fd: number
  #released = false

  constructor(path: string, fd: number) {
    this.#path = path
    this.#fd = fd
  }

  /** Whether the file still has its name: nobody removed it, and no other file is locked in its place. */
  get isNamed(): boolean {
    // As bigints: some file systems number their files above 2^53.
    const [locked, named] = [fs.fstatSync(this.#fd, { bigint: true }), lstat(this.#path)]
    return named !== undefined && named.ino === locked.ino && named.dev === locked.dev
  }

  /** Replaces what the file says: for people, and for those who do not get the lock. Raw errors of `node:fs`. */
  write(text: string): void {
    const fd = fs.openSync(this.#path, O_WRONLY | O_NOFOLLOW | O_NONBLOCK)
    try {
      fs.writeSync(fd, text, 0)
      fs.ftruncateSync(fd, Buffer.byteLength(text))
    } finally {
      fs.closeSync(fd)
    }
  }

  /** Gives the lock back, with its file or without. Idempotent. */
  release({ remove = false }: { readonly remove?: boolean } = {}): void {
    if (this.#released) return
    this.#released = true
    try {
      if (remove && this.isNamed) fs.unlinkSync(this.#path)
    } catch {
      // On a disk that is read-only by now it stays, and is taken like any other.
    } finally {
      fs.closeSync(this.#fd)
    }
  }

  [Symbol.dispose](): void {
    this.release()
  }
}

/**
 * One try: the lock, or undefined if another has it, or if there is no file and none is to be made.
 * @throws UNSUPPORTED where koffi cannot be loaded; raw errors of `node:fs`
 */
export async function tryLockFile(path: string, { existing = false }: LockOptions = {}): Promise<LockFile | undefined> {
  const tryFlock = await loadFlock()
  // Not for writing, because that would keep a file system from being made read-only.
  let access = O_RDONLY
  for (;;) {
    const fd = open(path, access | (existing ? 0 : O_CREAT))
    if (fd === undefined) return undefined
    const lock = new LockFile(path, fd)
    try {
      const isHeld = tryFlock(fd)
      if (isHeld && lock.isNamed) return lock
      lock.release()
      if (!isHeld) return undefined
    } catch (error) {
      lock.release()
      // NFS gives locks to writers only.
      if (access === O_RDWR || !isErrno(error, 'EBADF')) throw error
      access = O_RDWR
    }
  }
}

/** Runs `work` while holding the lock, and leaves no file. TIMEOUT if others hold it for ten seconds; what `work` throws is passed on. */
export async function withLockFile<T>(path: string, work: () => Promise<T>, clock: Clock = systemClock): Promise<T> {
  const lock = await waitForLock(path, clock)
  try {
    return await work()
  } finally {
    lock.release({ remove: true })
  }
}

async function waitForLock(path: string, clock: Clock): Promise<LockFile> {
  const deadline = clock.now() + WAIT_MS
  try {
    for (;;) {
      const lock = await tryLockFile(path)
      if (lock !== undefined) return lock
      if (clock.now() >= deadline) throw new ThawError('TIMEOUT', `another process holds ${path}`, { object: path })
      await clock.sleep(POLL_MS * (1 + clock.random()))
    }
  } catch (error) {
    throw fromErrno(error, 'cannot lock', path)
  }
}

/** Undefined: there is none. */
function lstat(path: string): fs.BigIntStats | undefined {
  try {
    return fs.lstatSync(path, { bigint: true })
  } catch (error) {
    if (isErrno(error, 'ENOENT') || isErrno(error, 'ENOTDIR')) return undefined
    throw error
  }
}

/** Undefined: there is none, and none is to be made. */
function open(path: string, flags: number): number | undefined {
  try {
    // Not blocking, so that a FIFO in its place is not waited for.
    return fs.openSync(path, flags | O_NOFOLLOW | O_NONBLOCK, MODE)
  } catch (error) {
    if ((flags & O_CREAT) === 0 && isErrno(error, 'ENOENT')) return undefined
    throw error
  }
}

let loading: Promise<TryFlock> | undefined

/** Not of native.ts: keyrings and caches are used where nothing can be served, too. */
function loadFlock(): Promise<TryFlock> {
  loading ??= bindFlock().catch(cause => {
    throw new ThawError('UNSUPPORTED', 'locks need the package koffi, which cannot be loaded here', { cause })
  })
  return loading
}

async function bindFlock(): Promise<TryFlock> {
  const { default: koffi } = await import('koffi')
  const flock: (fd: number, operation: number) => number = koffi.load(null).func('int flock(int fd, int operation)')
  return fd => {
    if (flock(fd, LOCK_EX_NB) === 0) return true
    const errno = koffi.errno()
    if (errno === constants.errno.EAGAIN) return false
    throw systemErrorOf(errno, 'flock')
  }
}
