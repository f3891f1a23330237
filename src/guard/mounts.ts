/**
 * Which mounts are at a path, and taking off those that came later: by the kernel's list, because a look at the path itself would ask a file system whose server may be
 * gone. Never follows a link.
 */
import { closeSync } from 'node:fs'
import { basename, dirname } from 'node:path'
import { listMounts } from '../util/mounts.ts'
import type { Native } from '../util/native.ts'
import { openFolder } from '../util/open-folder.ts'

const MNT_DETACH = 2
const UMOUNT_NOFOLLOW = 8
/** Mounts on top of each other at one path; more are somebody's mistake. */
const DETACHED_MAX = 16

/** Their ids, the topmost last. @param path absolute, without links */
export function mountIdsAt(path: string): number[] {
  return listMounts()
    .filter(mount => mount.path === path)
    .map(({ id }) => id)
}

/** Takes off what was mounted there since `present` was listed, though it be in use: it leaves the tree at once. What cannot be taken off stays. */
export function detachNewMounts(native: Native, path: string, present: readonly number[]): void {
  for (let detached = 0; detached < DETACHED_MAX; detached++) {
    const top = mountIdsAt(path).at(-1)
    if (top === undefined || present.includes(top)) return
    if (!detach(native, path)) return
  }
}

/** By way of the folder above, opened without being led elsewhere. */
function detach(native: Native, path: string): boolean {
  let parent: number
  try {
    parent = openFolder(native, dirname(path)).fd
  } catch {
    return false
  }
  const isDone = native.umount2(Buffer.from(`/proc/self/fd/${parent}/${basename(path)}\0`), MNT_DETACH | UMOUNT_NOFOLLOW) === 0
  closeSync(parent)
  return isDone
}
