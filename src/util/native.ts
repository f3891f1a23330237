/**
 * The system calls that Node does not offer, through koffi, which is prebuilt and needs no compiler. One `Native` a thread.
 *
 * Every call is synchronous and returns what the C function does: -1 is an error, whose number `errno` has until the next call. Buffers are read and written where they lie;
 * those whose address goes into a structure must be kept alive by whoever wrote it there.
 *
 * Numbers of calls and flags are those of Linux on x86-64 and arm64, which agree but where it is said.
 */
import { ThawError } from '../errors.ts'

export interface Native {
  /** Of the last call that failed. */
  errno(): number
  /** Where a buffer lies, which must not be empty; below 2⁴⁸. The same for as long as its memory lives. */
  addressOf(buffer: ArrayBufferView): number

  read(fd: number, buffer: Uint8Array, sizeBytes: number): number
  write(fd: number, buffer: Uint8Array, sizeBytes: number): number
  /** `vectors` holds `count` structs iovec (<sys/uio.h>): address u64, length u64. */
  writev(fd: number, vectors: Uint8Array, count: number): number
  /** preadv2(2); `offset` -1: where the descriptor stands. */
  preadv2(fd: number, vectors: Uint8Array, count: number, offset: number, flags: number): number
  close(fd: number): number
  /** `argument` is the structure a request points to. */
  ioctl(fd: number, request: bigint | number, argument: Uint8Array): number
  /** fallocate(2). */
  fallocate(fd: number, mode: number, offset: number, sizeBytes: number): number
  /** sync_file_range(2). */
  syncFileRange(fd: number, offset: number, sizeBytes: number, flags: number): number
  lseek(fd: number, offset: number, whence: number): number
  dup(fd: number): number
  /** fcntl(2) with an argument that is a number. */
  fcntl(fd: number, command: number, argument: number): number

  socket(family: number, type: number, protocol: number): number
  /** `ends` takes two i32. */
  socketpair(family: number, type: number, protocol: number, ends: Uint8Array): number
  bind(fd: number, address: Uint8Array, sizeBytes: number): number
  listen(fd: number, backlog: number): number
  connect(fd: number, address: Uint8Array, sizeBytes: number): number
  /** accept4(2) without the peer's address. */
  accept(fd: number, flags: number): number
  recv(fd: number, buffer: Uint8Array, sizeBytes: number, flags: number): number
  send(fd: number, buffer: Uint8Array, sizeBytes: number, flags: number): number
  /** `message` is a struct msghdr (<sys/socket.h>), 56 bytes. */
  sendmsg(fd: number, message: Uint8Array, flags: number): number
  recvmsg(fd: number, message: Uint8Array, flags: number): number
  /** `size` is an i32, in and out. */
  getsockopt(fd: number, level: number, option: number, value: Uint8Array, size: Uint8Array): number
  setsockopt(fd: number, level: number, option: number, value: Uint8Array, sizeBytes: number): number
  shutdown(fd: number, how: number): number
  getsockname(fd: number, address: Uint8Array, size: Uint8Array): number

  eventfd(count: number, flags: number): number
  epollCreate(flags: number): number
  /** `event` is a struct epoll_event, see EPOLL_EVENT_BYTES. */
  epollControl(epoll: number, operation: number, fd: number, event: Uint8Array): number
  /** `timeoutMs` -1: until something happens. */
  epollWait(epoll: number, events: Uint8Array, eventsMax: number, timeoutMs: number): number
  /** `fds` holds `count` structs pollfd (<poll.h>): fd i32, events i16, revents i16. */
  poll(fds: Uint8Array, count: number, timeoutMs: number): number

  /** madvise(2). `address` is a multiple of the system's page size. */
  madvise(address: number, sizeBytes: number, advice: number): number

  /** pidfd_open(2), Linux 5.3. */
  pidfdOpen(pid: number, flags: number): number
  /** pidfd_send_signal(2), Linux 5.1. */
  pidfdSendSignal(pidfd: number, signal: number): number

  /** Arguments that are not used are 0. */
  prctl(option: number, a: number, b: number): number
  /** prctl(2) whose third argument is a structure. */
  prctlWith(option: number, a: number, structure: Uint8Array): number
  /** signal(2) that sets the default action, 0, or ignores, 1. */
  signal(signal: number, action: number): number
  /** seccomp(2). `filter` is a struct sock_fprog (<linux/filter.h>). */
  seccomp(operation: number, flags: number, filter: Uint8Array): number
  /** readlinkat(2) of a path that ends with a zero byte. */
  readlinkat(fd: number, path: Uint8Array, target: Uint8Array, sizeBytes: number): number
  /** fsopen(2), Linux 5.2, as the three that follow. `name` and other strings end with a zero byte. */
  fsopen(name: Uint8Array, flags: number): number
  fsconfig(fd: number, command: number, key: Uint8Array | null, value: Uint8Array | null): number
  fsmount(fd: number, flags: number, attributes: number): number
  /** move_mount(2) of a mount that is a descriptor to a folder that is one. */
  moveMount(mount: number, folder: number): number
  /** umount2(2) of a path that ends with a zero byte. */
  umount2(path: Uint8Array, flags: number): number
  /**
   * Replaces this process by a program, looked up in PATH. Returns only if it cannot. Bytes, because arguments need not be text: `file` ends with a zero byte,
   * `argv` holds addresses of such strings, u64 each, and ends with 0.
   */
  execvp(file: Uint8Array, argv: Uint8Array): number
}

/** Errors that are asked for (<asm-generic/errno.h>). */
export const ERRNO = {
  EPERM: 1,
  ENOENT: 2,
  ESRCH: 3,
  EINTR: 4,
  EIO: 5,
  EBADF: 9,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EFAULT: 14,
  EBUSY: 16,
  EEXIST: 17,
  ENODEV: 19,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  EMFILE: 24,
  EFBIG: 27,
  ENOSPC: 28,
  EROFS: 30,
  EPIPE: 32,
  ERANGE: 34,
  ENOSYS: 38,
  ENODATA: 61,
  EOVERFLOW: 75,
  ESHUTDOWN: 108,
  ENXIO: 6,
  EOPNOTSUPP: 95,
  ETIMEDOUT: 110,
} as const

/** struct epoll_event (<sys/epoll.h>): events u32, data u64; packed on x86-64, where data is at 4 and not at 8. */
export const EPOLL_EVENT_BYTES: number = process.arch === 'x64' ? 12 : 16
export const EPOLL_DATA_OFFSET: number = process.arch === 'x64' ? 4 : 8

let loading: Promise<Native> | undefined

/** The calls, for this thread. @throws UNSUPPORTED without Linux or without koffi: `what` says what needs it */
export async function loadNative(what: string): Promise<Native> {
  if (process.platform !== 'linux') throw new ThawError('UNSUPPORTED', `${what} needs Linux`)
  loading ??= bind()
  try {
    return await loading
  } catch (cause) {
    throw new ThawError('UNSUPPORTED', `${what} needs the package koffi, which cannot be loaded here`, { cause })
  }
}

/** As `loadNative`; undefined where there is none, for work that is only cheaper with it. */
export async function tryLoadNative(): Promise<Native | undefined> {
  try {
    return await loadNative('this')
  } catch {
    return undefined
  }
}

const SYS_PIDFD_SEND_SIGNAL = 424
const SYS_MOVE_MOUNT = 429
const SYS_FSOPEN = 430
const SYS_FSCONFIG = 431
const SYS_FSMOUNT = 432
/** MOVE_MOUNT_F_EMPTY_PATH and MOVE_MOUNT_T_EMPTY_PATH: both ends are the descriptors themselves. */
const MOVE_MOUNT_DESCRIPTORS = 0x44
const SYS_PIDFD_OPEN = 434
const SYS_SECCOMP = process.arch === 'x64' ? 317 : 277

async function bind(): Promise<Native> {
  const { default: koffi } = await import('koffi')
  const libc = koffi.load('libc.so.6')
  // koffi's functions are typed as taking anything and returning anything: each is given its type here, by the C declaration beside it.
  const f = (declaration: string): never => libc.func(declaration) as never
  const syscall: (number: number, a: number, b: number, c: number, d: number) => number = f(
    'long syscall(long number, long a, long b, long c, long d)',
  )
  const syscallWith: (number: number, a: number, b: number, c: Uint8Array) => number = f(
    'long syscall(long number, long a, long b, void *c)',
  )
  const syscallOpen: (number: number, name: Uint8Array, flags: number) => number = f('long syscall(long number, void *name, long flags)')
  const syscallSet: (number: number, fd: number, command: number, key: Uint8Array | null, value: Uint8Array | null, aux: number) => number =
    f('long syscall(long number, long fd, long command, void *key, void *value, long aux)')
  const syscallMove: (number: number, from: number, fromPath: Uint8Array, to: number, toPath: Uint8Array, flags: number) => number = f(
    'long syscall(long number, long from, void *fromPath, long to, void *toPath, long flags)',
  )
  const nothing = Buffer.from(new ArrayBuffer(1))
  const accept4: (fd: number, address: null, size: null, flags: number) => number = f(
    'int accept4(int fd, void *address, void *size, int flags)',
  )
  const prctl: (option: number, a: number, b: number, c: number, d: number) => number = f(
    'int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)',
  )
  const prctlWith: (option: number, a: number, b: Uint8Array, c: number, d: number) => number = f(
    'int prctl(int option, unsigned long a, void *b, unsigned long c, unsigned long d)',
  )
  return {
    errno: () => koffi.errno(),
    addressOf: buffer => Number(koffi.address(buffer)),
    read: f('int64_t read(int fd, void *buffer, size_t size)'),
    write: f('int64_t write(int fd, void *buffer, size_t size)'),
    writev: f('int64_t writev(int fd, void *vectors, int count)'),
    preadv2: f('int64_t preadv2(int fd, void *vectors, int count, int64_t offset, int flags)'),
    close: f('int close(int fd)'),
    ioctl: f('int ioctl(int fd, unsigned long request, void *argument)'),
    fallocate: f('int fallocate(int fd, int mode, int64_t offset, int64_t size)'),
    syncFileRange: f('int sync_file_range(int fd, int64_t offset, int64_t size, unsigned int flags)'),
    lseek: f('int64_t lseek(int fd, int64_t offset, int whence)'),
    dup: f('int dup(int fd)'),
    fcntl: f('int fcntl(int fd, int command, int argument)'),
    socket: f('int socket(int family, int type, int protocol)'),
    socketpair: f('int socketpair(int family, int type, int protocol, void *ends)'),
    bind: f('int bind(int fd, void *address, unsigned int size)'),
    listen: f('int listen(int fd, int backlog)'),
    connect: f('int connect(int fd, void *address, unsigned int size)'),
    accept: (fd, flags) => accept4(fd, null, null, flags),
    recv: f('int64_t recv(int fd, void *buffer, size_t size, int flags)'),
    send: f('int64_t send(int fd, void *buffer, size_t size, int flags)'),
    sendmsg: f('int64_t sendmsg(int fd, void *message, int flags)'),
    recvmsg: f('int64_t recvmsg(int fd, void *message, int flags)'),
    getsockopt: f('int getsockopt(int fd, int level, int option, void *value, void *size)'),
    setsockopt: f('int setsockopt(int fd, int level, int option, void *value, unsigned int size)'),
    shutdown: f('int shutdown(int fd, int how)'),
    getsockname: f('int getsockname(int fd, void *address, void *size)'),
    eventfd: f('int eventfd(unsigned int count, int flags)'),
    epollCreate: f('int epoll_create1(int flags)'),
    epollControl: f('int epoll_ctl(int epoll, int operation, int fd, void *event)'),
    epollWait: f('int epoll_wait(int epoll, void *events, int count, int timeoutMs)'),
    poll: f('int poll(void *fds, unsigned long count, int timeoutMs)'),
    madvise: f('int madvise(size_t address, size_t size, int advice)'),
    pidfdOpen: (pid, flags) => syscall(SYS_PIDFD_OPEN, pid, flags, 0, 0),
    pidfdSendSignal: (pidfd, signal) => syscall(SYS_PIDFD_SEND_SIGNAL, pidfd, signal, 0, 0),
    prctl: (option, a, b) => prctl(option, a, b, 0, 0),
    prctlWith: (option, a, structure) => prctlWith(option, a, structure, 0, 0),
    signal: f('intptr_t signal(int signal, intptr_t action)'),
    seccomp: (operation, flags, filter) => syscallWith(SYS_SECCOMP, operation, flags, filter),
    readlinkat: f('int64_t readlinkat(int fd, void *path, void *target, size_t size)'),
    fsopen: (name, flags) => syscallOpen(SYS_FSOPEN, name, flags),
    fsconfig: (fd, command, key, value) => syscallSet(SYS_FSCONFIG, fd, command, key, value, 0),
    fsmount: (fd, flags, attributes) => syscall(SYS_FSMOUNT, fd, flags, attributes, 0),
    moveMount: (mount, folder) => syscallMove(SYS_MOVE_MOUNT, mount, nothing, folder, nothing, MOVE_MOUNT_DESCRIPTORS),
    umount2: f('int umount2(void *path, int flags)'),
    execvp: f('int execvp(void *file, void *argv)'),
  }
}
