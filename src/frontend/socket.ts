/**
 * The Unix socket at which a VMM finds its pager: made so that from its first moment nobody but its owner can connect, whatever the umask, and whoever else may write to its folder.
 *
 * It is bound in a folder of our own beside its place (mode 0700), gets its owner and mode there, and is then renamed into place: no link that somebody plants at the path is
 * followed. Bound through /proc/self/fd, the path may be as long as the file system allows: 107 bytes are a limit of `connect`, and a jailed VMM knows a shorter path.
 */
import {
  chmodSync,
  chownSync,
  closeSync,
  constants,
  lstatSync,
  mkdtempSync,
  openSync,
  renameSync,
  rmdirSync,
  rmSync,
  type Stats,
  unlinkSync,
} from 'node:fs'
import { createConnection } from 'node:net'
import { basename, dirname, join } from 'node:path'
import { fromErrno, ThawError } from '../errors.ts'
import { refuseDescriptors } from '../util/descriptor-message.ts'
import type { Native } from '../util/native.ts'
import { systemError } from '../util/system-error.ts'

/** A socket's file, which may be another by the time it is removed. */
export interface SocketFile {
  readonly path: string
  readonly device: number
  readonly inode: number
}

export interface SocketAccess {
  /** Who may connect; default: who runs this process. */
  readonly uid?: number | undefined
  readonly gid?: number | undefined
  /** Permission bits; default 0600. */
  readonly mode?: number | undefined
}

export interface SocketOptions extends SocketAccess {
  /** Clients hand over descriptors; default: they cannot. */
  readonly takesDescriptors?: boolean
}

export interface ListeningSocket {
  /** Non-blocking, close-on-exec; the caller's to close. */
  readonly fd: number
  readonly file: SocketFile
}

const AF_UNIX = 1
const SOCK_STREAM = 1
const SOCK_NONBLOCK = 0o4000
const SOCK_CLOEXEC = 0o2000000
/** Clients that wait to be accepted. One more is told EAGAIN, if it does not wait itself: a burst must not keep the VMM out. */
export const BACKLOG = 128
const ADDRESS_BYTES = 110
/** Before it is renamed into place. */
const SOCKET_NAME = 's'

/** @throws CONFLICT if somebody listens at the path, or something else is there; NOT_FOUND, DENIED, NO_SPACE, UNAVAILABLE */
export async function listenAt(native: Native, path: string, options: SocketOptions): Promise<ListeningSocket> {
  try {
    await checkFree(path)
    return bindAt(native, path, options)
  } catch (error) {
    throw fromErrno(error, 'cannot listen at', path)
  }
}

/** Removes the file if it is still the same. Idempotent; does not throw. */
export function removeSocketFile({ path, device, inode }: SocketFile): void {
  try {
    const { dev, ino } = lstatSync(path)
    if (dev === device && ino === inode) unlinkSync(path)
  } catch {
    // Gone, or its folder is: what was wanted.
  }
}

/** What a server that died has left may be replaced, nothing else. */
async function checkFree(path: string): Promise<void> {
  const there: Stats | undefined = lstatSync(path, { throwIfNoEntry: false })
  if (there === undefined) return
  if (!there.isSocket()) throw new ThawError('CONFLICT', `${path} is there already, and is not a socket`, { object: path })
  if (await isListenedAt(path)) throw new ThawError('CONFLICT', `somebody listens at ${path} already`, { object: path })
}

function isListenedAt(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    // By way of its folder's descriptor, for paths that are longer than an address.
    const folderFd = openSync(dirname(path), constants.O_RDONLY | constants.O_DIRECTORY)
    const socket = createConnection(`/proc/self/fd/${folderFd}/${basename(path)}`)
    socket.once('close', () => closeSync(folderFd))
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ECONNREFUSED' || error.code === 'ENOENT') resolve(false)
      else reject(error)
    })
  })
}

function bindAt(native: Native, path: string, { uid, gid, mode = 0o600, takesDescriptors = false }: SocketOptions): ListeningSocket {
  const folder = mkdtempSync(join(dirname(path), '.thaw-'))
  let folderFd = -1
  let fd = -1
  try {
    folderFd = openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY)
    const here = `/proc/self/fd/${folderFd}/${SOCKET_NAME}`
    fd = native.socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if (fd < 0) throw systemError(native, 'socket')
    if (native.bind(fd, addressOf(here), ADDRESS_BYTES) < 0) throw systemError(native, 'bind')
    chmodSync(here, mode)
    if (uid !== undefined || gid !== undefined) chownSync(here, uid ?? process.getuid!(), gid ?? process.getgid!())
    if (!takesDescriptors) refuseDescriptors(native, fd)
    if (native.listen(fd, BACKLOG) < 0) throw systemError(native, 'listen')
    const { dev, ino } = lstatSync(here)
    renameSync(here, path)
    return { fd, file: { path, device: dev, inode: ino } }
  } catch (error) {
    if (fd >= 0) closeSync(fd)
    throw error
  } finally {
    if (folderFd >= 0) closeSync(folderFd)
    // Without opening it: there may be no descriptor left.
    rmSync(join(folder, SOCKET_NAME), { force: true })
    rmdirSync(folder)
  }
}

/** struct sockaddr_un (<sys/un.h>). */
function addressOf(path: string): Buffer {
  const address = Buffer.alloc(ADDRESS_BYTES)
  address.writeUInt16LE(AF_UNIX, 0)
  address.write(path, 2)
  return address
}
