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
import { type Guard, startGuard, type Watched } from '../guard.ts'
import type { FrontEndEvent } from '../pager.ts'
import type { AttachOptions, Restore, RestoreEvent } from '../restore.ts'
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
  readonly #ending = Promise.withResolvers<MountEnd>()
  /** By which the mount is known, when it is there. */
  #device = ''
  #watched: Watched | undefined
  /** Settles when it is served, or never will be. */
  readonly #started = Promise.withResolvers<FuseServing | undefined>()
  #finishing: Promise<void> | undefined

  /** @internal */
  constructor(parts: MountParts) {
    this.#parts = parts
    this.path = parts.folder.path
    this.ended = this.#ending.promise
  }

  /** @internal The descriptor is this mount's when this resolves, else the caller's. */
  async start(): Promise<void> {
    try {
      const serving = await this.#begin()
      void serving.died.then(error => this.#finish({ reason: 'failed', error }))
      this.#started.resolve(serving)
    } catch (error) {
      this.#started.resolve(undefined)
      throw error
    }
  }

  async #begin(): Promise<FuseServing> {
    const { restore, guard, options, fd } = this.#parts
    const { readAheadBytes = 0 } = options
    const writable = writableImages(restore, options)
    const watched = await guard.watchMount(this.path)
    try {
      const source = `thaw:${restore.snapshot.id.slice(0, 12)}`
      this.#device = await mountAt(this.path, { fd, source, isWritable: writable.length > 0, allowOther: allowsOther(options) })
      const serving = await this.#serve({ kind: 'fuse', fd, look: lookOf(restore, options), writable, readAheadBytes })
      this.#watched = watched
      return serving
    } catch (error) {
      if (this.#device !== '') await detachAt(this.path, this.#device)
      watched?.release()
      throw error
    }
  }

  #serve(spec: FuseSpec): Promise<FuseServing> {
    const { restore } = this.#parts
    const options: AttachOptions = {
      kind: 'fuse',
      path: this.path,
      writable: spec.writable,
      flush: () => this.flush(),
      onEvent: (event: FrontEndEvent) => this.#hear(event as FuseEvent),
      close: () => this.close(),
    }
    return serveOnPager(restore, spec, options)
  }

  #hear(event: FuseEvent): void {
    if (event.kind === 'opened') this.#emit({ kind: 'connected', pid: event.pid })
    else if (event.kind === 'unreadable') {
      const { image, page, code } = event
      this.#emit({ kind: code === 'CORRUPT' ? 'corrupt' : 'unreadable', image, page, code })
    } else if (event.kind === 'damaged') this.#emit(event)
    else if (event.kind === 'unmounted') void this.#finish({ reason: 'unmounted' })
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
    for (const name of writableImages(restore, options)) await flushFile(join(this.path, name))
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
    const serving = await this.#started.promise
    // Whoever wanted it took off what there was.
    if (serving === undefined) return
    const { folder, guard } = this.#parts
    // What was written and cannot be sent is lost, and whoever wrote it is told by its next fsync, if it lives.
    if (end.reason === 'closed' && !(await unmountAt(this.path, this.#device))) await this.#flush().catch(() => undefined)
    await serving.end()
    // Nobody serves it any more: what is still there is dead.
    await detachAt(this.path, this.#device)
    await removeMadeFolders(folder)
    this.#watched?.release()
    await guard.close()
    this.#ending.resolve(end)
    this.#emit({ kind: 'closed', reason: end.reason })
  }

  #emit(event: EventOfMount): void {
    this.#parts.restore.emit({ frontEnd: 'fuse', path: this.path, ...event })
  }
}

/** A mount that is being served. */
interface FuseServing {
  /** Settles with the reason if that ended by itself; nobody waits at the descriptor then. */
  readonly died: Promise<Error>
  /** Nothing is served any more when it resolves. Idempotent, does not reject. */
  end(): Promise<void>
}

/** The descriptor is the caller's if this throws. @throws what `Restore.attach` throws */
async function serveOnPager(restore: Restore, spec: FuseSpec, options: AttachOptions): Promise<FuseServing> {
  const { detach, died } = await restore.attach(spec, options)
  let isOpen = true
  const close = (): void => {
    if (isOpen) closeSync(spec.fd)
    isOpen = false
  }
  void died.then(close)
  return { died, end: () => detach().then(close) }
}

type EventOfMount = RestoreEvent extends infer Event ? (Event extends RestoreEvent ? Omit<Event, 'frontEnd' | 'path'> : never) : never

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
