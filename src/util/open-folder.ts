/**
 * Opens a folder at a path of which others may own a part, without being led elsewhere: component by component, each held open while the next is looked up in it, so that nothing
 * counts but what was opened. Links are followed if root or this user made them, in a folder where nobody else can put one; others are refused.
 */
import { closeSync, constants, fstatSync, mkdirSync, openSync, type Stats } from 'node:fs'
import { resolve } from 'node:path'
import { ThawError } from '../errors.ts'
import type { Native } from './native.ts'
import { systemError } from './system-error.ts'

/** <fcntl.h>, on x86-64 and arm64. */
const O_PATH = 0o10000000
const PATH_BYTES_MAX = 4096
/** As the kernel's. */
const LINKS_MAX = 40
const FOLDER_MODE = 0o755
const OTHERS_WRITE = 0o022
const STICKY = 0o1000

export interface OpenFolder {
  /** O_PATH, close-on-exec; the caller's. */
  readonly fd: number
  /** How many folders at its end were made. */
  readonly made: number
}

/**
 * @param make folders that are not there
 * @throws CONFLICT for somebody else's link; raw errors of Node
 */
export function openFolder(native: Native, path: string, make = false): OpenFolder {
  const names = resolve(path).split('/')
  let fd = openSync('/', O_PATH)
  let made = 0
  try {
    for (let links = 0; names.length > 0; ) {
      const name = names.shift()!
      if (name === '' || name === '.') continue
      const here = `/proc/self/fd/${fd}/${name}`
      if (make && makeFolder(here, made > 0)) made++
      const next = openSync(here, O_PATH | constants.O_NOFOLLOW)
      const target = linkAt(native, next)
      if (target === undefined) {
        closeSync(fd)
        fd = next
        continue
      }
      const isTrusted = isOurs(fstatSync(next)) && canOnlyWeRename(fstatSync(fd))
      closeSync(next)
      if (!isTrusted) throw refused(path, `${name} is a link that another user made or could have put there`)
      if (++links > LINKS_MAX) throw refused(path, 'too many links')
      names.unshift(...target.split('/'))
      if (target.startsWith('/')) {
        closeSync(fd)
        fd = openSync('/', O_PATH)
      }
    }
    return { fd, made }
  } catch (error) {
    closeSync(fd)
    throw error
  }
}

/** Below a folder that was just made, what is there already is somebody else's. @returns whether it was not there */
function makeFolder(path: string, isFresh: boolean): boolean {
  try {
    mkdirSync(path, FOLDER_MODE)
    return true
  } catch (error) {
    if (!isFresh && error instanceof Error && 'code' in error && (error.code === 'EEXIST' || error.code === 'EROFS')) return false
    throw error
  }
}

/** What the link says that this descriptor is; undefined if it is none. Asks no file system but for a link. */
function linkAt(native: Native, fd: number): string | undefined {
  const target = Buffer.alloc(PATH_BYTES_MAX)
  const size = native.readlinkat(fd, Buffer.from('\0'), target, target.length)
  if (size >= 0) return target.toString('utf8', 0, size)
  const error = systemError(native, 'readlinkat')
  // What is no link.
  if (error.code === 'ENOENT' || error.code === 'EINVAL') return undefined
  throw error
}

function isOurs({ uid }: Stats): boolean {
  return uid === 0 || uid === process.getuid!()
}

/** What we own in it, that is: in a sticky folder nobody else can. */
function canOnlyWeRename(folder: Stats): boolean {
  return isOurs(folder) && ((folder.mode & OTHERS_WRITE) === 0 || (folder.mode & STICKY) !== 0)
}

function refused(path: string, why: string): ThawError {
  return new ThawError('CONFLICT', `${path} is not followed: ${why}`, { object: path })
}
