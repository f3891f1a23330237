/**
 * `mount`: the images of a restore as files of a folder, by FUSE, for whoever opens files: QEMU (`mem-path=DIR/memory,share=on`), `cp`, a debugger.
 *
 * Pages are fetched as they are touched; with read-ahead, what follows them too. A writable mount keeps what is written in the restore's overlay. It is served on the restore's
 * pager (fuse/server.ts); this half mounts, hands on what happens and unmounts. When this process dies, readers get errors and the guard takes the mount off.
 *
 * Only who mounts can look into it, unless another is named: guest memory is full of secrets. It does not see what another front end of the restore writes meanwhile to the same
 * image: the kernel keeps the pages it has read.
 */
import { closeSync } from 'node:fs'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { type Guard, startGuard, type Watched } from '../guard.ts'
import type { FrontEndEvent } from '../pager.ts'
import type { AttachedFrontEnd, Restore, RestoreEvent } from '../restore.ts'
import {
  detachAt,
  flushFile,
  type MountFolder,
  mountAt,
  openFuseDevice,
  prepareFolder,
  removeMadeFolders,
  unmountAt,
} from './fuse/mounting.ts'
import type { FileLook, FuseEvent, FuseSpec } from './fuse/spec.ts'

export interface MountOptions {
  /** Whether files can be written to; what is written is in the restore's overlay. Sizes do not change. Default: no, the mount is read-only. */
  readonly writable?: boolean | undefined
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
 * @throws DENIED without the right to mount; CONFLICT if the folder is not empty, or another front end writes to an image; UNSUPPORTED without FUSE or koffi; NOT_FOUND,
 * NO_SPACE, UNAVAILABLE; CLOSED; TypeError and RangeError
 */
export async function mount(restore: Restore, dir: string, options: MountOptions = {}): Promise<Mount> {
  checkOptions(dir, options)
  const guard = await startGuard()
  let folder: MountFolder | undefined
  let fd: number | undefined
  try {
    folder = await prepareFolder(dir)
    fd = openFuseDevice()
    const mount = new Mount({ restore, folder, guard, options, fd })
    await mount.start()
    return mount
  } catch (error) {
    // Whoever waits at it already gets an error.
    if (fd !== undefined) closeSync(fd)
    if (folder !== undefined) await removeMadeFolders(folder)
    await guard.close()
    throw error
  }
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

interface MountParts {
  readonly restore: Restore
  readonly folder: MountFolder
  readonly guard: Guard
  readonly options: MountOptions
  /** /dev/fuse. */
  readonly fd: number
}

/** Made by `mount`. */
export class Mount implements AsyncDisposable {
  /** The folder, absolute and without links. */
  readonly path: string
  /** Resolves when nothing is served any more and the mount is off; never rejects. */
  readonly ended: Promise<MountEnd>
  readonly #parts: MountParts
  readonly #fd: number
  readonly #ending = Promise.withResolvers<MountEnd>()
  /** By which the mount is known, when it is there. */
  #device = ''
  #isClosedByPager = false
  #watched: Watched | undefined
  #attached: AttachedFrontEnd | undefined
  #finishing: Promise<void> | undefined

  /** @internal */
  constructor(parts: MountParts) {
    this.#parts = parts
    this.#fd = parts.fd
    this.path = parts.folder.path
    this.ended = this.#ending.promise
  }

  /** @internal The descriptor is this mount's when this resolves, else the caller's. */
  async start(): Promise<void> {
    const { restore, guard, options } = this.#parts
    const { writable: isWritable = false, readAheadBytes = 0 } = options
    const watched = await guard.watchMount(this.path)
    try {
      const source = `thaw:${restore.snapshot.id.slice(0, 12)}`
      this.#device = await mountAt(this.path, { fd: this.#fd, source, isWritable, allowOther: allowsOther(options) })
      this.#attached = await this.#attach({ kind: 'fuse', fd: this.#fd, look: lookOf(restore, options), isWritable, readAheadBytes })
    } catch (error) {
      if (this.#device !== '') await detachAt(this.path, this.#device)
      watched.release()
      throw error
    }
    this.#watched = watched
    void this.#attached.died.then(error => {
      this.#isClosedByPager = true
      return this.#finish({ reason: 'failed', error })
    })
  }

  #attach(spec: FuseSpec): Promise<AttachedFrontEnd> {
    const { restore } = this.#parts
    return restore.attach(spec, {
      kind: 'fuse',
      path: this.path,
      writable: spec.isWritable ? restore.snapshot.images.map(({ name }) => name) : [],
      flush: () => this.flush(),
      descriptors: [spec.fd],
      onEvent: (event: FrontEndEvent) => this.#hear(event as FuseEvent),
      close: () => this.close(),
    })
  }

  #hear(event: FuseEvent): void {
    if (event.kind === 'opened') this.#emit({ kind: 'connected', pid: event.pid })
    else if (event.kind === 'unreadable') {
      const { image, page, code } = event
      this.#emit({ kind: code === 'CORRUPT' ? 'corrupt' : 'unreadable', image, page, code })
    } else if (event.kind === 'unmounted') void this.#finish({ reason: 'unmounted' })
    else void this.#finish({ reason: 'failed', error: new Error(event.reason) })
  }

  /**
   * Has what was written through mappings of the files arrive in the overlay. What is written with write(2) is there when that returns.
   * @throws NO_SPACE if there was no room for it: it is lost; UNAVAILABLE
   */
  async flush(): Promise<void> {
    if (this.#finishing === undefined) await this.#flush()
  }

  async #flush(): Promise<void> {
    const { restore, options } = this.#parts
    if (options.writable !== true) return
    for (const { name } of restore.snapshot.images) await flushFile(join(this.path, name))
  }

  /**
   * Unmounts. Waits a moment for those who have files open; then their next access to what they do not have yet is an error. Idempotent, does not reject.
   */
  close(): Promise<void> {
    return this.#finish({ reason: 'closed' })
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #finish(end: MountEnd): Promise<void> {
    this.#finishing ??= this.#takeOff(end)
    return this.#finishing
  }

  async #takeOff(end: MountEnd): Promise<void> {
    const { folder, guard } = this.#parts
    if (end.reason === 'closed') await unmountAt(this.path, this.#device, () => this.#flushForced())
    await this.#letGo()
    // Nobody serves it any more: what is still there is dead.
    await detachAt(this.path, this.#device)
    await removeMadeFolders(folder)
    this.#watched?.release()
    await guard.close()
    this.#ending.resolve(end)
    this.#emit({ kind: 'closed', reason: end.reason })
  }

  /** They are lost then, and whoever wrote them is told by its next fsync, if it lives. */
  async #flushForced(): Promise<void> {
    await this.#flush().catch(() => undefined)
  }

  /** Ends the serving, and with the last descriptor the waiting of all who read. */
  async #letGo(): Promise<void> {
    await this.#attached?.detach()
    // That the pager died meanwhile, and closed it, has been told by then.
    await setImmediate()
    if (!this.#isClosedByPager) closeSync(this.#fd)
  }

  #emit(event: EventOfMount): void {
    this.#parts.restore.emit({ frontEnd: 'fuse', path: this.path, ...event })
  }
}

type EventOfMount = RestoreEvent extends infer Event ? (Event extends RestoreEvent ? Omit<Event, 'frontEnd' | 'path'> : never) : never

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
