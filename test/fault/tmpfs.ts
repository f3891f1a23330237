/** A small file system of a test's own, over a folder. Needs root, as CI has. */
import { execFileSync } from 'node:child_process'

export interface Tmpfs extends Disposable {
  /** Changes mount options: `size=8m`, `ro`. */
  remount(options: string): void
}

/** Mounts at `folder`, which is there; unmounted when disposed of, whatever still uses it. */
export function mountTmpfs(folder: string, options: string): Tmpfs {
  execFileSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', folder])
  return {
    remount: changed => void execFileSync('mount', ['-o', `remount,${changed}`, folder]),
    [Symbol.dispose]: () => void execFileSync('umount', ['-l', folder]),
  }
}
