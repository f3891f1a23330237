/**
 * The front ends as the library has them: each is loaded when it is first asked for. Programs that serve no guest, `thaw ls` among them, do not pay for it (6 ms of 52 on a busy
 * machine).
 */
import type { Mount, MountOptions } from './frontend/fuse.ts'
import type { NbdOptions, NbdServer } from './frontend/nbd.ts'
import type { UffdOptions, UffdPager } from './frontend/uffd.ts'
import type { Restore } from './restore.ts'

/**
 * Mounts the images of a restore at `dir`, which is made if it is not there, and then removed at the end. Resolves when files can be read.
 * @throws DENIED without the right to mount; CONFLICT if the folder is not empty, or another front end writes to an image; UNSUPPORTED without FUSE or koffi; NOT_FOUND,
 * NO_SPACE, UNAVAILABLE; CLOSED; TypeError and RangeError
 */
export async function mount(restore: Restore, dir: string, options: MountOptions = {}): Promise<Mount> {
  const fuse = await import('./frontend/fuse.ts')
  return await fuse.mount(restore, dir, options)
}

/**
 * Serves an image of a restore as a block device. Resolves when clients can connect.
 * @throws NOT_FOUND if there is no such image, certificate or address; CONFLICT if the socket's path or the port is taken, or something else writes to the image; DENIED, NO_SPACE,
 * UNAVAILABLE; UNSUPPORTED without koffi; CLOSED; TypeError and RangeError for options that cannot be
 */
export async function serveNbd(restore: Restore, image: string, options: NbdOptions): Promise<NbdServer> {
  const nbd = await import('./frontend/nbd.ts')
  return await nbd.serveNbd(restore, image, options)
}

/**
 * Serves an image of a restore as the memory of one VMM, by userfaultfd. Resolves when the VMM can connect.
 * @throws NOT_FOUND if there is no such image; UNSUPPORTED without koffi; CONFLICT if the socket's path is taken; DENIED, NO_SPACE, UNAVAILABLE; CLOSED; TypeError and RangeError
 */
export async function serveUffd(restore: Restore, image: string, options: UffdOptions): Promise<UffdPager> {
  const uffd = await import('./frontend/uffd.ts')
  return await uffd.serveUffd(restore, image, options)
}
