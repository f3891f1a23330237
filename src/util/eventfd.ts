/**
 * An eventfd: a descriptor by which one thread wakes another that waits in `epoll_wait` or `poll`, where a message would not reach it. Node has none, so a system call makes it; ringing, silencing and closing are plain writes, reads and closes of node:fs.
 *
 * It is non-blocking, belongs to the process, and is closed by whoever opened it once no thread waits at it or rings it: its number is used again at once.
 */
import { closeSync, readSync, writeSync } from 'node:fs'
import { fromErrno } from '../errors.ts'
import { loadNative } from './native.ts'
import { systemError } from './system-error.ts'

/** Of <sys/eventfd.h> on Linux: O_NONBLOCK and O_CLOEXEC of x86-64 and arm64. */
const EFD_NONBLOCK = 0o4000
const EFD_CLOEXEC = 0o2000000

const ONE = Buffer.from(new BigUint64Array([1n]).buffer)
const COUNT = Buffer.alloc(8)

/** @throws UNSUPPORTED where there are none; UNAVAILABLE if no descriptor is free */
export async function openEventFd(): Promise<number> {
  const native = await loadNative('waking a thread that waits for descriptors')
  const fd = native.eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
  if (fd < 0) throw fromErrno(systemError(native, 'eventfd'), 'cannot make', 'an eventfd')
  return fd
}

/** Makes it readable, and so wakes who waits. */
export function ringEventFd(fd: number): void {
  writeSync(fd, ONE)
}

/** Takes back all rings, before it is waited for again. */
export function silenceEventFd(fd: number): void {
  try {
    readSync(fd, COUNT)
  } catch (error) {
    // It had not been rung.
    if (!(error instanceof Error && 'code' in error && error.code === 'EAGAIN')) throw error
  }
}

export function closeEventFd(fd: number): void {
  closeSync(fd)
}
