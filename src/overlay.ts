/**
 * The private writes of one restore: a folder of its own with a sparse file for each image that is written to. They reach no other restore and no cache, and go with the restore unless they
 * are kept.
 *
 *     <dir>/<name>/overlay.lock     held while the restore lives (util/lock-file.ts): a folder whose lock nobody holds, and that was not kept, is removed by the next `create` in <dir>
 *     <dir>/<name>/<image>.pages    pages as they lie in the image; made when the image is first asked for
 *     <dir>/<name>/overlay.states   only if it was kept (overlay/kept.ts): which of those pages count
 *
 * The folder is 0700 and the files 0600: they hold a guest's memory in the clear.
 *
 * Pages are read and written by `overlay/image-overlay.ts`, on whatever thread serves the image; here is what is done once. Opening a kept overlay again is not.
 */
import { type FileHandle, mkdir, open, readdir, rm, rmdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { PAGE_BYTES, pageCount } from './chunk.ts'
import { fromErrno, ThawError } from './errors.ts'
import { checkImageName } from './names.ts'
import { BUDGET, BUDGET_WORDS, COUNT, COUNTS, type SharedOverlay } from './overlay/image-overlay.ts'
import { KEPT_FILE, writeKept } from './overlay/kept.ts'
import { isErrno } from './util/atomic-file.ts'
import { type LockFile, tryLockFile } from './util/lock-file.ts'
import { makeFolders } from './util/make-folders.ts'

const LOCK_FILE = 'overlay.lock'
const PAGES_SUFFIX = '.pages'
const FOLDER_MODE = 0o700
const FILE_MODE = 0o600
/** Between making the lock's file and locking it. */
const TAKING_MS_MAX = 60_000
/** Counted in an i32. 8 TiB. */
const PAGES_MAX = 2 ** 31 - 1
const FOLDER_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/

export interface OverlayImage {
  readonly name: string
  readonly sizeBytes: number
}

export interface OverlayOptions {
  /** Where overlays lie; made if it is not there. */
  readonly dir: string
  /** Of this one, in `dir`: the restore's id. `[A-Za-z0-9][A-Za-z0-9._-]{0,127}` */
  readonly name: string
  /** All images of the snapshot; an overlay of one is made when it is asked for. */
  readonly images: readonly OverlayImage[]
  /** Bytes of written pages, of all images together. Default: what the images have. */
  readonly sizeMax?: number | undefined
  /** Leave the folder when it is closed. */
  readonly keep?: boolean | undefined
}

export interface OverlayImageFigures {
  readonly name: string
  readonly writtenPages: number
  readonly zeroPages: number
}

export interface OverlayFigures {
  /** Those that were asked for. */
  readonly images: readonly OverlayImageFigures[]
  readonly writtenPages: number
  readonly zeroPages: number
  /** Bytes. */
  readonly sizeMax: number
}

interface Opened {
  readonly shared: SharedOverlay
  /** Undefined if there are only states. */
  readonly file: FileHandle | undefined
}

export class Overlay implements AsyncDisposable {
  readonly folder: string
  readonly #lock: LockFile
  readonly #images: ReadonlyMap<string, OverlayImage>
  readonly #opened = new Map<string, Promise<Opened>>()
  /** What is there, for those who cannot wait. */
  readonly #ready = new Map<string, Opened>()
  readonly #budget: SharedArrayBuffer
  readonly #sizeMax: number
  readonly #keep: boolean
  /** Nobody waits for it to start: a host may have a thousand restores to look at. */
  readonly #sweeping: Promise<void>
  #closing: Promise<void> | undefined

  private constructor(folder: string, lock: LockFile, { dir, images, sizeMax, keep }: OverlayOptions) {
    this.folder = folder
    this.#lock = lock
    this.#images = new Map(images.map(image => [image.name, image]))
    this.#sizeMax = sizeMax ?? images.reduce((sum, { sizeBytes }) => sum + pageCount(sizeBytes) * PAGE_BYTES, 0)
    this.#budget = new SharedArrayBuffer(BUDGET_WORDS * Int32Array.BYTES_PER_ELEMENT)
    new Int32Array(this.#budget)[BUDGET.pagesMax] = Math.min(Math.floor(this.#sizeMax / PAGE_BYTES), PAGES_MAX)
    this.#keep = keep ?? false
    this.#sweeping = removeDead(dir)
  }

  /**
   * Makes the folder, and begins to remove those of restores whose process is dead.
   * @throws RangeError for a name or size that cannot be; ThawError CONFLICT if the folder is another restore's, or was kept; DENIED, NO_SPACE, UNAVAILABLE
   */
  static async create(options: OverlayOptions): Promise<Overlay> {
    const { dir, name, images, sizeMax } = options
    if (!FOLDER_NAME.test(name)) throw new RangeError(`${JSON.stringify(name)} is no name of an overlay: ${FOLDER_NAME}`)
    for (const image of images) checkImageName(image.name)
    if (sizeMax !== undefined && !(sizeMax >= 0)) throw new RangeError(`an overlay of at most ${sizeMax} bytes`)
    const folder = join(dir, name)
    try {
      await makeFolders(dir)
      return new Overlay(folder, await takeFolder(folder), options)
    } catch (error) {
      throw fromErrno(error, 'cannot make the overlay', folder)
    }
  }

  /**
   * The overlay of an image, made when it is first asked for. It is good until `close`.
   * @param written false: states are enough, for memory that is written to elsewhere. One who asks for more later is given the same states with a file.
   * @throws RangeError if there is no such image; ThawError CLOSED, DENIED, NO_SPACE, UNAVAILABLE
   */
  async image(name: string, { written }: { readonly written: boolean }): Promise<SharedOverlay> {
    if (this.#closing !== undefined) throw new ThawError('CLOSED', 'the overlay is closed', { object: this.folder })
    const image = this.#images.get(name)
    if (image === undefined) throw new RangeError(`the snapshot has no image ${JSON.stringify(name)}`)
    const before = this.#opened.get(name)
    const opened = this.#open(image, written, before)
    this.#opened.set(name, opened)
    // Whoever waits for it sees its error; the next one tries again.
    opened.catch(() => {
      if (this.#opened.get(name) === opened) this.#opened.delete(name)
    })
    return (await opened).shared
  }

  async #open({ name, sizeBytes }: OverlayImage, written: boolean, before: Promise<Opened> | undefined): Promise<Opened> {
    await before?.catch(() => undefined)
    const had = this.#ready.get(name)
    if (had !== undefined && (had.file !== undefined || !written)) return had
    const file = written ? await this.#createFile(name, sizeBytes) : undefined
    const states = had?.shared.states ?? new SharedArrayBuffer(pageCount(sizeBytes))
    const counts = had?.shared.counts ?? new SharedArrayBuffer(COUNTS * Int32Array.BYTES_PER_ELEMENT)
    const opened = { shared: { name, sizeBytes, states, fd: file?.fd ?? -1, counts, budget: this.#budget }, file }
    this.#ready.set(name, opened)
    return opened
  }

  async #createFile(name: string, sizeBytes: number): Promise<FileHandle> {
    const path = this.#pagesPath(name)
    try {
      const file = await open(path, 'wx+', FILE_MODE)
      await file.truncate(sizeBytes).catch(async error => {
        await file.close()
        await rm(path, { force: true })
        throw error
      })
      return file
    } catch (error) {
      throw fromErrno(error, `cannot make the overlay of image ${name}`, path)
    }
  }

  #pagesPath(name: string): string {
    return join(this.folder, name + PAGES_SUFFIX)
  }

  figures(): OverlayFigures {
    const images = [...this.#ready].map(([name, { shared }]) => {
      const counts = new Int32Array(shared.counts)
      return { name, writtenPages: Atomics.load(counts, COUNT.writtenPages), zeroPages: Atomics.load(counts, COUNT.zeroPages) }
    })
    return {
      images,
      writtenPages: images.reduce((sum, { writtenPages }) => sum + writtenPages, 0),
      zeroPages: images.reduce((sum, { zeroPages }) => sum + zeroPages, 0),
      sizeMax: this.#sizeMax,
    }
  }

  /**
   * Removes the folder, or makes it durable if it is to be kept. Nobody may use what `image` gave any more. Idempotent.
   * @throws ThawError NO_SPACE, DENIED, UNAVAILABLE if it could not be kept: then it is removed, as half an overlay is none
   */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    await Promise.allSettled([this.#sweeping, ...this.#opened.values()])
    let kept = false
    try {
      if (this.#keep) await this.#makeDurable()
      kept = this.#keep
    } catch (error) {
      throw fromErrno(error, 'cannot keep the overlay', this.folder)
    } finally {
      for (const { file } of this.#ready.values()) await file?.close()
      if (kept) this.#lock.release({ remove: true })
      else await removeFolder(this.folder, this.#lock)
    }
  }

  async #makeDurable(): Promise<void> {
    const opened = [...this.#ready.values()]
    for (const { file } of opened) await file?.datasync()
    await writeKept(
      this.folder,
      opened.map(({ shared }) => shared),
    )
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

/** Makes the folder this process's own, also if a dead one left it half made or half removed. */
async function takeFolder(folder: string): Promise<LockFile> {
  await mkdir(folder, FOLDER_MODE).catch(error => {
    if (!isErrno(error, 'EEXIST')) throw error
  })
  const found = await readdir(folder)
  if (found.includes(KEPT_FILE))
    throw new ThawError('CONFLICT', `${folder} is an overlay that was kept: move it away first`, { object: folder })
  if (found.some(file => !isOurs(file))) throw new ThawError('CONFLICT', `${folder} is there, and is no overlay`, { object: folder })
  const lock = await tryLockFile(join(folder, LOCK_FILE)).catch(error => {
    // Another process has just removed it as a dead one's.
    if (isErrno(error, 'ENOENT')) return takeFolder(folder)
    throw error
  })
  if (lock === undefined) throw new ThawError('CONFLICT', `${folder} is the overlay of a restore that runs`, { object: folder })
  try {
    lock.write(`${process.pid}\n`)
    for (const file of found) if (file.endsWith(PAGES_SUFFIX)) await rm(join(folder, file), { force: true })
  } catch (error) {
    lock.release({ remove: true })
    throw error
  }
  return lock
}

/** Removes the overlays in `dir` whose process is dead, but those that were kept. What cannot be looked at is somebody else's. Never rejects. */
async function removeDead(dir: string): Promise<void> {
  const entries = await readdir(dir, { withFileTypes: true }).catch(() => [])
  for (const entry of entries) if (entry.isDirectory()) await removeIfDead(join(dir, entry.name)).catch(() => undefined)
}

async function removeIfDead(folder: string): Promise<void> {
  const path = join(folder, LOCK_FILE)
  const { size, mtimeMs } = await stat(path)
  // Its owner has made the file and is about to lock it.
  if (size === 0 && Date.now() - mtimeMs < TAKING_MS_MAX) return
  using lock = await tryLockFile(path, { existing: true })
  if (lock === undefined) return
  if ((await readdir(folder)).includes(KEPT_FILE)) lock.release({ remove: true })
  else await removeFolder(folder, lock)
}

/** Removes what is an overlay's and then the folder, if nothing else lies there. The lock goes last, so that what is interrupted is found again. */
async function removeFolder(folder: string, lock: LockFile): Promise<void> {
  try {
    const files = (await readdir(folder)).filter(file => isOurs(file) && file !== LOCK_FILE)
    for (const file of files) await rm(join(folder, file), { force: true })
    lock.release({ remove: true })
    await rmdir(folder)
  } catch (error) {
    if (isErrno(error, 'ENOENT') || isErrno(error, 'ENOTEMPTY')) return
    throw fromErrno(error, 'cannot remove the overlay', folder)
  } finally {
    lock.release()
  }
}

function isOurs(file: string): boolean {
  return file.endsWith(PAGES_SUFFIX) || file.startsWith(LOCK_FILE) || file.startsWith(KEPT_FILE)
}
