/** The kernel's list of mounts, which asks no file system anything: the server of one may be gone. */
import { readFileSync } from 'node:fs'

export interface ListedMount {
  readonly id: number
  /** "0:52" */
  readonly device: string
  /** Where it is now, though a folder above it was renamed. Absolute, without links. */
  readonly path: string
  /** "fuse.thaw" */
  readonly type: string
}

/** In the order they were mounted: the last one at a path is what is seen there. Fields of a line: proc_pid_mountinfo(5). */
export function listMounts(): ListedMount[] {
  const lines = readFileSync('/proc/self/mountinfo', 'utf8').split('\n')
  return lines.filter(Boolean).map(line => {
    const [before = '', after = ''] = line.split(' - ')
    const [id, , device = '', , point = ''] = before.split(' ')
    // Space, tab, newline and backslash are written in octal.
    const path = point.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)))
    return { id: Number(id), device, path, type: after.split(' ')[0] ?? '' }
  })
}

export function topMountAt(path: string): ListedMount | undefined {
  return listMounts().findLast(mount => mount.path === path)
}

/** Of what stat(2) says, as `ListedMount` has it (gnu_dev_major and gnu_dev_minor of <sys/sysmacros.h>, for what fits 32 bits). */
export function deviceOf(dev: number): string {
  return `${(dev >>> 8) & 0xfff}:${(dev & 0xff) | ((dev >>> 12) & 0xfff00)}`
}
