/**
 * How many bytes a cache folder may hold. The bound belongs to the folder and lies in it, so that no
 * command that knows another number, or none, ever deletes what others keep: a size that is given
 * when the folder is opened only raises the bound, and `resize` alone lowers it.
 *
 * A folder without a bound (a new one; one of an earlier version; one whose bound was torn) gets the
 * larger of what was asked for and what it holds.
 */
import { withLockFile } from '../util/lock-file.ts'
import { type CacheFiles, readSmall } from './disk-files.ts'

const BYTES_DEFAULT = 10 * 2 ** 30
/** The largest entry is one of so many parts of the bound. */
const PARTS = 8
/** The same where the bound is not known yet: more than any manifest has. */
const PART_BYTES_UNKNOWN = 2 ** 30

export class Bound {
  readonly #files: CacheFiles
  readonly #askedBytes: number | undefined
  /** What the folder says, as of the last look. */
  #folderBytes: number | undefined
  #asked = false

  /** `askedBytes`: what whoever opened the folder gave; undefined: nothing. */
  constructor(files: CacheFiles, askedBytes: number | undefined) {
    this.#files = files
    this.#askedBytes = askedBytes
  }

  get bytes(): number {
    return this.#folderBytes ?? this.#askedBytes ?? BYTES_DEFAULT
  }

  /** The largest entry, and what may be written by one who does not know what the folder holds. */
  get partBytes(): number {
    return Math.floor(this.bytes / PARTS)
  }

  /** A larger file is no entry. */
  get entryBytesMax(): number {
    return this.#folderBytes === undefined ? Math.max(this.partBytes, PART_BYTES_UNKNOWN) : this.partBytes
  }

  /** Looks what the folder says by now. Raw errors of `node:fs`. */
  async read(): Promise<void> {
    this.#folderBytes = await readBound(this.#files)
  }

  /** Raises the folder's bound to what was asked for, once: who lowers it later means it. Raw errors of `node:fs`. */
  async raise(): Promise<void> {
    if (this.#asked || this.#folderBytes === undefined) return
    if (this.#askedBytes !== undefined) await this.#raise(this.#askedBytes)
    this.#asked = true
  }

  /** Gives a folder that has no bound its first one. `heldBytes`: what it holds. Raw errors of `node:fs`. */
  async settle(heldBytes: number): Promise<void> {
    if (this.#folderBytes !== undefined) return
    await this.#raise(Math.max(this.bytes, heldBytes))
    this.#asked = true
  }

  async #raise(bytes: number): Promise<void> {
    if (bytes <= (this.#folderBytes ?? 0)) return
    this.#folderBytes = await update(this.#files, before => Math.max(bytes, before ?? 0))
  }
}

/** Undefined if the folder has none, or one that cannot be. Raw errors of `node:fs`. */
export async function readBound(files: CacheFiles): Promise<number | undefined> {
  const digits = /^([1-9]\d{0,15})\n$/.exec((await readSmall(files.boundPath)) ?? '')?.[1]
  return digits !== undefined && Number.isSafeInteger(Number(digits)) ? Number(digits) : undefined
}

/** Sets the bound of a folder, higher or lower than it was. Raw errors of `node:fs`. */
export async function setBound(files: CacheFiles, bytes: number): Promise<void> {
  await update(files, () => bytes)
}

/** One at a time, so that of two who raise it the larger one stays. */
function update(files: CacheFiles, change: (before: number | undefined) => number): Promise<number> {
  return withLockFile(`${files.boundPath}.lock`, async () => {
    const bytes = change(await readBound(files))
    await files.write(files.boundPath, Buffer.from(`${bytes}\n`))
    return bytes
  })
}
