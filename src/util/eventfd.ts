/**
 * An eventfd: a descriptor by which one thread wakes another that waits in `epoll_wait` or `poll`, where a message would not reach it. Node has none, so it is made through
 * koffi, an optional dependency; ringing, silencing and closing are plain writes, reads and closes of node:fs.
 *
 * It is non-blocking, belongs to the process, and is closed by whoever opened it once no thread waits at it or rings it: its number is used again at once.
 */
import { closeSync, readSync, writeSync } from 'node:fs'

/** Of <sys/eventfd.h> on Linux: O_NONBLOCK and O_CLOEXEC of x86-64 and arm64. */
const EFD_NONBLOCK = 0o4000
const EFD_CLOEXEC = 0o2000000

const ONE = Buffer.from(new BigUint64Array([1n]).buffer)
const COUNT = Buffer.alloc(8)

/** @returns a descriptor; undefined without Linux, koffi or a free descriptor */
export async function openEventFd(): Promise<number | undefined> {
  if (process.platform !== 'linux') return undefined
  try {
    const { default: koffi } = await import('koffi')
    const fd = Number(koffi.load('libc.so.6').func('int eventfd(unsigned int count, int flags)')(0, EFD_NONBLOCK | EFD_CLOEXEC))
    return fd < 0 ? undefined : fd
  } catch {
    // Not installed, or another C library: whoever wanted one does with messages.
    return undefined
  }
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
