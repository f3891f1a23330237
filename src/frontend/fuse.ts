/**
 * `mount`: the images of a restore as files of a folder, by FUSE, for whoever opens files: QEMU (`mem-path=DIR/memory,share=on`), `cp`, a debugger.
 *
 * Pages are fetched as they are touched; with read-ahead, what follows them too. A writable mount keeps what is written in the restore's overlay. It is served on the restore's
 * pager (fuse/server.ts); this half mounts, hands on what happens and unmounts. When this process dies, readers get errors and the guard takes the mount off.
 *
 * Only who mounts can look into it, unless another is named: guest memory is full of secrets. It does not see what another front end of the restore writes meanwhile to the same
 * image: the kernel keeps the pages it has read.
 */
import { resolve } from 'node:path'
import type { Restore } from '../restore.ts'
import { detachAt, flushFile, type MountFolder, mountAt, openFuseDevice, prepareFolder, releaseFolder, unmountAt } from './fuse/mounting.ts'
import type { FileLook, FuseEvent, FuseSpec } from './fuse/spec.ts'
import { Lifecycle } from './lifecycle.ts'

export interface MountOptions {
  /**
   * Whether files can be written to, or which of them; what is written is in the restore's overlay. Sizes do not change. Default: none, the mount is read-only. Names are for
   * a restore of which another front end writes to the other images: a disk behind NBD, say.
   */
  readonly writable?: boolean | readonly string[] | undefined
  /** Lets other users in. Default: no, unless `uid` or `gid` names one. The permission bits still say what they may. */
  readonly allowOther?: boolean | undefined
  /** Whose the files are, for a VMM that runs as another user; default: who runs this process. */
  readonly uid?: number | undefined
  readonly gid?: number | undefined
  /** Permission bits of the files; default 0444, writable 0644. If `uid` or `gid` is given, 0400 and 0600. */
  readonly mode?: number | undefined
  /**
   * Most bytes that the kernel reads beyond a page that is asked for; default 0: a VMM touches what it needs here and there, and whatever is read besides is fetched for
   * nothing. 128 KiB or more makes copying whole files several times faster.
   */
  readonly readAheadBytes?: number | undefined
}

/** How it ended. `unmounted`: by somebody else. */
export type MountEnd =
  | { readonly reason: 'closed' }
  | { readonly reason: 'unmounted' }
  | { readonly reason: 'failed'; readonly error: Error }

const ID_MAX = 2 ** 32 - 2
const READ_AHEAD_MAX = 2 ** 30

/**
 * Mounts the images of a restore at `dir`, which is made if it is not there, and then removed at the end. Resolves when files can be read.
 * @throws DENIED without the right to mount; CONFLICT if the folder is not empty, or another front end writes to an image; UNSUPPORTED without FUSE or koffi; NOT_FOUND, NO_SPACE,
 * UNAVAILABLE; CLOSED; TypeError and RangeError
 */
export async function mount(restore: Restore, dir: string, options: MountOptions = {}): Promise<Mount> {
  checkOptions(dir, options)
  const mount = new Mount(restore, dir, options)
  await mount.start()
  return mount
}

function checkOptions(dir: string, { uid, gid, mode, readAheadBytes }: MountOptions): void {
  if (typeof dir !== 'string' || dir === '' || dir.includes('\0')) throw new TypeError('the folder to mount at is not a path')
  const check = (name: string, value: number | undefined, max: number): void => {
    if (value !== undefined && !(Number.isInteger(value) && value >= 0 && value <= max)) {
      throw new RangeError(`${name} is ${value}: not a whole number from 0 to ${max}`)
    }
  }
  check('uid', uid, ID_MAX)
  check('gid', gid, ID_MAX)
  check('mode', mode, 0o777)
  check('readAheadBytes', readAheadBytes, READ_AHEAD_MAX)
}

/** Made by `mount`. */
export class Mount implements AsyncDisposable {
  /** Resolves when nothing is served any more and the mount is off; never rejects. */
  readonly ended: Promise<MountEnd>
  readonly #restore: Restore
  readonly #options: MountOptions
  readonly #life: Lifecycle<MountEnd>
  #path: string
  #device: string | undefined
  /** Nobody used it any more, and so it was taken off. */
  #isOff = false
  /** How it was when it was served no longer. Undefined: its pager died, and nobody knows. */
  #left: (FuseEvent & { readonly kind: 'left' | 'unmounted' }) | undefined

  /** @internal */
  constructor(restore: Restore, dir: string, options: MountOptions) {
    this.#restore = restore
    this.#options = options
    this.#path = resolve(dir)
    this.#life = new Lifecycle({
      restore,
      kind: 'fuse',
      path: () => this.#path,
      writable: writableImages(restore, options),
      flush: () => this.flush(),
    })
    this.ended = this.#life.closed
  }

  /** The folder, absolute and without links. */
  get path(): string {
    return this.#path
  }

  /** @internal */
  start(): Promise<void> {
    return this.#life.start(() => this.#begin())
  }

  async #begin(): Promise<void> {
    const life = this.#life
    const { writable } = life
    const guard = await life.guard()
    const folder = await prepareFolder(this.#path)
    this.#path = folder.path
    life.own(() => releaseFolder(folder))
    const watched = await guard.watchMount(this.#path)
    life.own(() => watched.release())
    // Once the descriptor is closed: nobody serves it any more, and what is still there is dead.
    life.own(() => (this.#device === undefined ? undefined : detachAt(folder, this.#device)))
    const fuse = life.ownDescriptor(openFuseDevice())
    const source = `thaw:${this.#restore.snapshot.id.slice(0, 12)}`
    life.checkStarting()
    const settings = { fd: fuse.fd, source, isWritable: writable.length > 0, allowOther: allowsOther(this.#options) }
    this.#device = await mountAt(folder, settings)
    life.own(end => this.#judge(end))
    const { readAheadBytes = 0 } = this.#options
    const spec: FuseSpec = { kind: 'fuse', fd: fuse.fd, look: lookOf(this.#restore, this.#options), writable, readAheadBytes }
    await life.attach(spec, {
      onEvent: event => this.#hear(event as FuseEvent),
      onDied: error => {
        // Whoever waits at the mount gets an error with that, `umount` too.
        fuse.close()
        void life.end({ reason: 'failed', error })
      },
    })
    life.own(end => this.#takeOff(folder, end))
  }

  /** While it is served. What is written and not sent then is lost, and its writers need not hear of it. */
  async #takeOff(folder: MountFolder, end: MountEnd | undefined): Promise<void> {
    if (end?.reason !== 'closed') return
    this.#isOff = (await unmountAt(folder, this.#device!)) === 'off'
    if (!this.#isOff) await this.#flush().catch(() => undefined)
  }

  /**
   * When it is served no longer. That it is off says little: whoever uses it by another mount, in another namespace say, or after `umount -l`, goes on. If the kernel has let go as
   * well, it has sent all there was; that a writer closed its file it may have dropped.
   */
  #judge(end: MountEnd | undefined): void {
    const isWhole = this.#left !== undefined && (!this.#left.inUse || (this.#isOff && this.#left.kind === 'unmounted'))
    if (end !== undefined && !isWhole) this.#life.damage()
  }

  #hear(event: FuseEvent): void {
    if (event.kind === 'opened') this.#life.emit({ kind: 'connected', pid: event.pid })
    else if (event.kind === 'unreadable') {
      const { image, page, code } = event
      this.#life.emit({ kind: code === 'CORRUPT' ? 'corrupt' : 'unreadable', image, page, code })
    } else if (event.kind === 'damaged') this.#life.emit(event)
    else if (event.kind === 'left') this.#left = event
    else if (event.kind === 'unmounted') {
      this.#left = event
      void this.#life.end({ reason: 'unmounted' })
    } else void this.#life.end({ reason: 'failed', error: new Error(event.reason) })
  }

  /**
   * Has what was written through mappings of the files arrive in the overlay. What is written with write(2) is there when that returns.
   * @throws NO_SPACE if there was no room for it: it is lost; CONFLICT if the mount is not at its place any more, and so cannot be reached; UNAVAILABLE
   */
  async flush(): Promise<void> {
    if (this.#life.isServing) await this.#flush()
    // By the end of that it has arrived or is lost.
    else if (this.#life.isClosing) await this.#life.close()
  }

  async #flush(): Promise<void> {
    for (const name of this.#life.writable) await flushFile(this.#path, this.#device!, name)
  }

  /**
   * Unmounts. Waits a moment for those who have files open; then their next access to what they do not have yet is an error. Idempotent, does not reject.
   */
  close(): Promise<void> {
    return this.#life.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

function writableImages({ snapshot }: Restore, { writable = false }: MountOptions): readonly string[] {
  if (typeof writable !== 'boolean') return writable
  return writable ? snapshot.images.map(({ name }) => name) : []
}

function allowsOther({ allowOther, uid, gid }: MountOptions): boolean {
  return allowOther ?? (uid !== undefined || gid !== undefined)
}

function lookOf(restore: Restore, { uid, gid, mode }: MountOptions): FileLook {
  const isOnlyTheirs = uid !== undefined || gid !== undefined
  return {
    uid: uid ?? process.getuid!(),
    gid: gid ?? process.getgid!(),
    writableMode: mode ?? (isOnlyTheirs ? 0o600 : 0o644),
    readOnlyMode: mode ?? (isOnlyTheirs ? 0o400 : 0o444),
    timeMs: restore.snapshot.createdAt.getTime(),
  }
}
