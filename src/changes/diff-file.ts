/**
 * A VMM's diff file: a sparse file of the image's full size. A hole means "as in the parent", data "perhaps changed", zeros in data mean zero.
 *
 * The holes are therefore content, and must be told exactly or not at all: a page taken for data that is a hole would be zero in the child. So it is UNSUPPORTED where they cannot be told: without
 * koffi, on a file system that does not tell them, or whose blocks are larger than a page. A file that keeps no holes at all (a copy made without `--sparse`) is taken as it is.
 *
 * Blocks smaller than a page are fine: VMMs write whole pages, so a page of which any part is data is data.
 */
import { constants, type Stats } from 'node:fs'
import { type FileHandle, open, statfs } from 'node:fs/promises'
import type { ChangedPages, ImageChanges } from '../changes.ts'
import { PAGE_BYTES, pageCount } from '../chunk.ts'
import { fromErrno, ThawError } from '../errors.ts'
import { loadNative, type Native } from '../util/native.ts'
import { DISK_BLOCK_BYTES, dataStretches } from '../util/sparse.ts'

/** File systems whose holes are as large as the block that statfs(2) tells; others tell a size of transfers there (<linux/magic.h>; ZFS: its own headers). */
const TELL_BLOCK: readonly number[] = [0xef53 /* ext */, 0x58465342 /* XFS */, 0x9123683e /* btrfs */, 0x2fc12fc1 /* ZFS */]
/** Its files say a page here, or a huge page where it is mounted with those: then whole huge pages are data. */
const TMPFS = 0x01021994

/** Opened by `open`, closed by who opened it, once its changes have been taken. */
export class DiffFile implements ImageChanges, AsyncDisposable {
  readonly path: string
  readonly sizeBytes: number
  readonly #handle: FileHandle
  readonly #stats: Stats
  readonly #native: Native

  private constructor(path: string, handle: FileHandle, stats: Stats, native: Native) {
    this.path = path
    this.sizeBytes = stats.size
    this.#handle = handle
    this.#stats = stats
    this.#native = native
  }

  /** @throws RangeError if it is no regular file; ThawError NOT_FOUND, DENIED, UNSUPPORTED if its holes cannot be told */
  static async open(path: string): Promise<DiffFile> {
    const native = await loadNative('a diff file')
    // Not to wait for the other end of a pipe that lies there.
    const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK).catch(error => {
      throw fromErrno(error, 'cannot read the diff', path)
    })
    try {
      const stats = await handle.stat()
      if (!stats.isFile()) throw new RangeError(`${path} is no regular file: a diff has to be one, for its holes`)
      await requireFineHoles(path, stats)
      const diff = new DiffFile(path, handle, stats, native)
      diff.#requireHoles()
      return diff
    } catch (error) {
      await handle.close()
      throw error
    }
  }

  get identity(): string {
    return diffIdentity(this.#stats)
  }

  *stretches(): Generator<ChangedPages> {
    const { fd } = this.#handle
    let next = 0
    for (const { from, to } of dataStretches(this.#native, { fd, path: this.path }, this.sizeBytes)) {
      const page = Math.max(next, Math.floor(from / PAGE_BYTES))
      const end = pageCount(to)
      // Two stretches of one page, where blocks are smaller.
      if (end <= page) continue
      yield { kind: 'file', page, count: end - page, fd, offset: page * PAGE_BYTES }
      next = end
    }
  }

  /** By size and time of the last change, since it was opened. */
  async checkUnchanged(): Promise<void> {
    const now = await this.#handle.stat()
    if (now.size === this.#stats.size && now.mtimeMs === this.#stats.mtimeMs) return
    throw new ThawError('CONFLICT', `${this.path} changed while it was read: stop the guest first; nothing was published`, {
      object: this.path,
    })
  }

  /** A file that lacks blocks has holes: if none is told, nobody can tell them. (Compression lacks blocks too; to take a file for a whole image is worse than to refuse one.) */
  #requireHoles(): void {
    const { size, blocks } = this.#stats
    if (blocks * DISK_BLOCK_BYTES + PAGE_BYTES > size) return
    const [first] = dataStretches(this.#native, { fd: this.#handle.fd, path: this.path }, size)
    if (first?.from === 0 && first.to === size) throw cannotTell(this.path, 'the file system does not tell them')
  }

  /** Idempotent. */
  async close(): Promise<void> {
    await this.#handle.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

/** Another one is another file, or one that was written to since. */
export function diffIdentity({ dev, ino, size, mtimeMs }: Stats): string {
  return [dev, ino, size, mtimeMs].join(' ')
}

async function requireFineHoles(path: string, stats: Stats): Promise<void> {
  const { type, bsize } = await statfs(path)
  const blockBytes = type === TMPFS ? stats.blksize : TELL_BLOCK.includes(type) ? bsize : 0
  if (blockBytes > PAGE_BYTES) throw cannotTell(path, `the file system keeps them by ${blockBytes} bytes`)
}

function cannotTell(path: string, why: string): ThawError {
  const message = `${path}: the holes of this diff cannot be told page by page, because ${why}: push the whole image, and have diffs written elsewhere (ext4, XFS, tmpfs)`
  return new ThawError('UNSUPPORTED', message, { object: path })
}
