/**
 * Processes by pidfd: a descriptor that means one process and never, as a number does, the next one that got its number. Synchronous, for threads that serve guests.
 *
 * A pidfd belongs to whoever asked for it, who closes it; they are close-on-exec.
 */
import { closeSync } from 'node:fs'
import { fromErrno, ThawError } from '../errors.ts'
import { ERRNO, type Native } from './native.ts'
import { systemError } from './system-error.ts'

/** Who connected to a Unix socket, or listened at it, as the kernel noted it at that time. */
export interface PeerProcess {
  readonly pid: number
  readonly uid: number
  readonly gid: number
  /** The caller's to close. */
  readonly pidfd: number
}

/** <asm-generic/socket.h>, the same on x86-64 and arm64. */
const SOL_SOCKET = 1
const SO_PEERCRED = 17
const SO_PEERPIDFD = 77
/** <poll.h>. POLLHUP and POLLERR come without being asked for. */
const POLLIN = 0x001
const POLLHUP = 0x010
const POLLRDHUP = 0x2000
const SIGKILL = 9
const NO_SIGNAL = 0
const UCRED_BYTES = 12

/**
 * The process at the other end of a connected Unix socket.
 * @returns undefined if it is gone
 * @throws UNSUPPORTED for a peer that has no number here, being in a foreign pid namespace; UNAVAILABLE for what else the kernel says (EMFILE)
 */
export function peerProcess(native: Native, socketFd: number): PeerProcess | undefined {
  const credentials = Buffer.alloc(UCRED_BYTES)
  if (!readOption(native, socketFd, SO_PEERCRED, credentials)) throw failed(native, 'getsockopt')
  const pid = credentials.readInt32LE(0)
  if (pid <= 0) throw new ThawError('UNSUPPORTED', 'the peer of the socket is in a pid namespace that cannot be seen from here')
  const pidfd = peerPidfd(native, socketFd) ?? openPidfd(native, socketFd, pid)
  return pidfd === undefined ? undefined : { pid, uid: credentials.readUInt32LE(4), gid: credentials.readUInt32LE(8), pidfd }
}

/** SIGKILL. One that has ended already is no error. @throws DENIED if it is another user's and this process may not */
export function killProcess(native: Native, pidfd: number): void {
  if (native.pidfdSendSignal(pidfd, SIGKILL) < 0 && native.errno() !== ERRNO.ESRCH) throw failed(native, 'pidfd_send_signal')
}

/** 0 if this process may kill that one, ESRCH if it has ended, EPERM if not. */
export function killErrno(native: Native, pidfd: number): number {
  return native.pidfdSendSignal(pidfd, NO_SIGNAL) < 0 ? native.errno() : 0
}

/** Whether the process has ended, all its threads with it. */
export function hasEnded(native: Native, pidfd: number): boolean {
  return (pollNow(native, pidfd, POLLIN) & POLLIN) !== 0
}

/** Linux 6.5. Undefined before it, and for a peer that is gone. */
function peerPidfd(native: Native, socketFd: number): number | undefined {
  const value = Buffer.alloc(4)
  return readOption(native, socketFd, SO_PEERPIDFD, value) ? value.readInt32LE(0) : undefined
}

/** By its number, which may be another's by now: only while the peer's end of the socket is still open does it mean the peer. */
function openPidfd(native: Native, socketFd: number, pid: number): number | undefined {
  const pidfd = native.pidfdOpen(pid, 0)
  if (pidfd < 0) {
    if (native.errno() === ERRNO.ESRCH) return undefined
    throw failed(native, 'pidfd_open')
  }
  if ((pollNow(native, socketFd, POLLRDHUP) & (POLLRDHUP | POLLHUP)) === 0) return pidfd
  closeSync(pidfd)
  return undefined
}

function readOption(native: Native, socketFd: number, option: number, value: Buffer): boolean {
  const size = Buffer.alloc(4)
  size.writeInt32LE(value.length)
  return native.getsockopt(socketFd, SOL_SOCKET, option, value, size) === 0
}

/** What of `events` is so at this moment. */
function pollNow(native: Native, fd: number, events: number): number {
  const entry = Buffer.alloc(8)
  entry.writeInt32LE(fd, 0)
  entry.writeInt16LE(events, 4)
  for (;;) {
    if (native.poll(entry, 1, 0) >= 0) return entry.readUInt16LE(6)
    if (native.errno() !== ERRNO.EINTR) throw failed(native, 'poll')
  }
}

function failed(native: Native, call: string): unknown {
  return fromErrno(systemError(native, call), 'cannot reach a process', 'pidfd')
}
