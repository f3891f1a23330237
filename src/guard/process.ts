/**
 * The guard: the program of the small process that outlives its owner (guard.ts starts it). It holds pidfds and paths, waits in `recvmsg`, and when the socket is closed, which the kernel
 * does however the owner ended, it kills every process and takes off every mount that was not released; then it ends, and with it go the descriptors that it held.
 *
 * It waits in the kernel and not in Node's event loop: idle, it costs no time, and there is nothing else it would do. Signals that end a process by custom are ignored: a terminal
 * or a service manager that ends a group of processes means the owner, and the guard ends with it anyway. If it fails in any other way it ends and kills nobody:
 * the owner sees that and starts another.
 */
import { closeSync, writeFileSync } from 'node:fs'
import { DescriptorMessages } from '../util/descriptor-message.ts'
import { inheritedFds } from '../util/inherited-fds.ts'
import { ERRNO, loadNative, type Native } from '../util/native.ts'
import { killErrno } from '../util/pidfd.ts'
import { detachNewMounts } from './mounts.ts'
import { ANSWER_BYTES, ANSWER_FD, type GuardRequest, REQUEST_BYTES_MAX, REQUEST_FD } from './protocol.ts'

type Watched =
  | { readonly kind: 'process'; readonly pidfd: number }
  | { readonly kind: 'mount'; readonly path: string; readonly present: readonly number[] }
  | { readonly kind: 'descriptor'; readonly fd: number }

type WatchRequest = Exclude<GuardRequest, { readonly kind: 'goodbye' }>

const SIG_IGN = 1
/** SIGHUP, SIGINT, SIGQUIT, SIGUSR1 (which starts Node's debugger), SIGUSR2, SIGPIPE, SIGALRM, SIGTERM. */
const IGNORED = [1, 2, 3, 10, 12, 13, 14, 15] as const
const SIGKILL = 9

closeInherited()
const native = await loadNative('the guard')
for (const signal of IGNORED) native.signal(signal, SIG_IGN)
stayWhenMemoryIsShort()
serve(native)

function serve(native: Native): void {
  const messages = new DescriptorMessages(native, REQUEST_FD, { bytesMax: REQUEST_BYTES_MAX })
  const watched = new Map<number, Watched>()
  answer(native, 0)
  for (;;) {
    const message = messages.receive()
    if (typeof message === 'number') throw new Error(`recvmsg: errno ${message}`)
    if (message.bytes.length === 0) break
    const request: GuardRequest = JSON.parse(String(message.bytes))
    if (request.kind === 'goodbye') {
      answer(native, 0)
      return
    }
    answer(native, take(native, watched, request, message.fds[0]))
  }
  for (const one of watched.values()) if (one.kind === 'process') native.pidfdSendSignal(one.pidfd, SIGKILL)
  for (const one of watched.values()) if (one.kind === 'mount') detachNewMounts(native, one.path, one.present)
}

/** @returns 0 or an errno */
function take(native: Native, watched: Map<number, Watched>, request: WatchRequest, fd: number | undefined): number {
  const before = watched.get(request.id)
  if (before?.kind === 'process') closeSync(before.pidfd)
  if (before?.kind === 'descriptor') closeSync(before.fd)
  watched.delete(request.id)
  if (request.kind === 'mount') watched.set(request.id, request)
  if (request.kind === 'mount' || request.kind === 'release') return 0
  // The kernel drops a descriptor for which there is no room.
  if (fd === undefined) return ERRNO.EMFILE
  if (request.kind === 'descriptor') {
    watched.set(request.id, { kind: 'descriptor', fd })
    return 0
  }
  const errno = killErrno(native, fd)
  if (errno === 0) watched.set(request.id, { kind: 'process', pidfd: fd })
  else closeSync(fd)
  return errno
}

function answer(native: Native, errno: number): void {
  const bytes = Buffer.alloc(ANSWER_BYTES)
  bytes.writeInt32LE(errno)
  // An owner that is gone does not hear it: the next message says so.
  native.write(ANSWER_FD, bytes, bytes.length)
}

/** What others wait to see closed, or may not stay open: the owner was perhaps started with descriptors that nobody marked close-on-exec. */
function closeInherited(): void {
  for (const fd of inheritedFds()) if (fd !== REQUEST_FD && fd !== ANSWER_FD) closeSync(fd)
}

/** Killing the guard frees nothing, and may leave guests without a pager for ever. Takes a privilege that thaw need not have. */
function stayWhenMemoryIsShort(): void {
  try {
    writeFileSync('/proc/self/oom_score_adj', '-1000')
  } catch {
    // As likely to be killed as its size makes it.
  }
}
