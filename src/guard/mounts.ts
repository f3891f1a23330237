/**
 * Which mounts are at a path, and taking off those that came later: by the kernel's list, because a look at the path itself would ask a file system whose server may be
 * gone. Never follows a link.
 */
import { readFileSync } from 'node:fs'
import type { Native } from '../util/native.ts'

const MNT_DETACH = 2
const UMOUNT_NOFOLLOW = 8
/** Mounts on top of each other at one path; more are somebody's mistake. */
const DETACHED_MAX = 16

/** Their ids, the topmost last. @param path absolute, without links. Fields of a line: proc_pid_mountinfo(5) */
export function mountIdsAt(path: string): number[] {
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map(line => line.split(' '))
  return mounts.filter(([, , , , point]) => point !== undefined && unescaped(point) === path).map(([id]) => Number(id))
}

/** Takes off what was mounted there since `present` was listed, though it be in use: it leaves the tree at once. What cannot be taken off stays. */
export function detachNewMounts(native: Native, path: string, present: readonly number[]): void {
  for (let detached = 0; detached < DETACHED_MAX; detached++) {
    const top = mountIdsAt(path).at(-1)
    if (top === undefined || present.includes(top)) return
    if (native.umount2(Buffer.from(`${path}\0`), MNT_DETACH | UMOUNT_NOFOLLOW) < 0) return
  }
}

/** Space, tab, newline and backslash are written in octal. */
function unescaped(point: string): string {
  return point.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)))
}
