/**
 * Starts a VMM in place of this process, in which `madvise(MADV_HUGEPAGE)` succeeds and does nothing.
 *
 * QEMU gives that advice for guest memory. Where the memory is a file that thaw serves, the kernel then reads up to 4 MiB at each fault, whatever read-ahead the file system
 * allows: resuming a function that touches 2.35 MiB pulled in 120 MiB.
 *
 * In place: the same process id, parent, working directory, environment, limits and credentials; nobody has to pass on signals and exit codes. What Node changed when it
 * started is put back: close-on-exec and non-blocking on the standard streams, close-on-exec on descriptors that are passed on, SIGPIPE and SIGXFSZ, which Node ignores.
 *
 * Not put back, because what was before cannot be known: Node raises the soft limit of open files to the hard one (start the VMM through `prlimit --nofile=1024:` where
 * that matters), stops ignoring the signals that it was started with as ignored (`nohup` goes between), and opens /dev/null for standard streams that were closed.
 */
import { fromErrno } from './errors.ts'
import { ignoreHugeAdvice } from './exec/huge-advice.ts'
import { inheritedFds } from './util/inherited-fds.ts'
import { loadNative, type Native } from './util/native.ts'
import { systemError } from './util/system-error.ts'

export interface ExecOptions {
  /**
   * Descriptors that the program is to have under the same numbers, besides the standard streams; others that are close-on-exec are closed. `inherited`: those with which this
   * process was started, for one that has opened nothing itself.
   */
  readonly passFds?: readonly number[] | 'inherited'
}

const STANDARD_STREAMS = [0, 1, 2] as const

/** fcntl(2), the same on all of Linux; O_NONBLOCK of x86-64 and arm64. */
const F_SETFD = 2
const F_GETFL = 3
const F_SETFL = 4
const O_NONBLOCK = 0o4000

const SIG_DFL = 0
const SIG_IGN = 1
const SIGPIPE = 13
const SIGXFSZ = 25
/** Node ignores them, and a program that is executed would go on doing so. */
const IGNORED_BY_NODE = [SIGPIPE, SIGXFSZ] as const

/**
 * Replaces this process by a program. It never resolves; other threads, timers and exit handlers end without a word.
 *
 * When it rejects, this process goes on, but must not start another program by other means: the filter stays, and its standard streams and `passFds` are inheritable.
 *
 * @param file looked up in PATH if it has no slash; also the program's own name for itself. Bytes where it is not UTF-8
 * @param args handed over as they are
 * @throws NOT_FOUND (no such program, or not its interpreter), DENIED (not executable); UNAVAILABLE for what else execve(2) says; UNSUPPORTED without Linux on x64 or
 * arm64, koffi, or the right to set a filter; TypeError for a zero byte in an argument; RangeError for a descriptor that is not open
 */
export async function execVmm(
  file: string | Uint8Array,
  args: readonly (string | Uint8Array)[] = [],
  { passFds = [] }: ExecOptions = {},
): Promise<never> {
  const strings = [file, ...args].map(endedByZero)
  const native = await loadNative('starting a VMM without huge-page advice')
  for (const fd of passFds === 'inherited' ? inheritedFds() : passFds) passOn(native, fd)
  for (const fd of STANDARD_STREAMS) makePlain(native, fd)
  ignoreHugeAdvice(native)
  throw fromErrno(replaceProcess(native, strings), 'cannot start the program', String(file))
}

function endedByZero(text: string | Uint8Array): Buffer {
  const bytes = Buffer.from(text)
  if (bytes.includes(0)) throw new TypeError(`an argument of a program cannot hold a zero byte: ${JSON.stringify(String(bytes))}`)
  return Buffer.concat([bytes, Buffer.alloc(1)])
}

function passOn(native: Native, fd: number): void {
  if (native.fcntl(fd, F_SETFD, 0) < 0) throw new RangeError(`descriptor ${fd} is not open`)
}

/** As programs expect a standard stream to be, and as Node hands it to a child. One that is closed stays so. */
function makePlain(native: Native, fd: number): void {
  native.fcntl(fd, F_SETFD, 0)
  const flags = native.fcntl(fd, F_GETFL, 0)
  if (flags >= 0 && (flags & O_NONBLOCK) !== 0) native.fcntl(fd, F_SETFL, flags & ~O_NONBLOCK)
}

/** @returns why it could not */
function replaceProcess(native: Native, strings: readonly Buffer[]): Error {
  const argv = Buffer.alloc((strings.length + 1) * 8)
  for (const [index, string] of strings.entries()) argv.writeBigUInt64LE(BigInt(native.addressOf(string)), index * 8)
  for (const signal of IGNORED_BY_NODE) native.signal(signal, SIG_DFL)
  native.execvp(strings[0]!, argv)
  const error = systemError(native, 'execvp')
  for (const signal of IGNORED_BY_NODE) native.signal(signal, SIG_IGN)
  return error
}
