/**
 * Which parts of a file hold data, by lseek(2) with SEEK_DATA and SEEK_HOLE, which Node does not offer.
 *
 * For those who only save work by it (`dataBlocks`), "cannot be told" is an answer: they read the holes and find the zeros themselves. For those to whom a hole means something else
 * than zeros (`dataStretches`) it is an error.
 */
import type { Stats } from 'node:fs'
import { ThawError } from '../errors.ts'
import { ERRNO, type Native, tryLoadNative } from './native.ts'

/** <unistd.h> on Linux. */
const SEEK_DATA = 3
const SEEK_HOLE = 4
/** Of `Stats.blocks`, whatever the file system's own blocks are. */
export const DISK_BLOCK_BYTES = 512

/** An open file; `path` names it in errors. */
export interface OpenFile {
  readonly fd: number
  readonly path: string
}

/** Bytes [from, to) of a file. */
export interface DataStretch {
  readonly from: number
  readonly to: number
}

/**
 * Marks the blocks of `blockBytes` that may hold data: `marks[i]` = 1; a block marked 0 is a hole from its first byte to its last.
 * @returns undefined if the file has no holes, or they cannot be found.
 */
export async function dataBlocks(fd: number, stats: Stats, blockBytes: number): Promise<Uint8Array | undefined> {
  if (stats.blocks * DISK_BLOCK_BYTES >= stats.size) return undefined
  const native = await tryLoadNative()
  if (native === undefined) return undefined
  const marks = new Uint8Array(Math.ceil(stats.size / blockBytes))
  for (let at = 0; at < stats.size; ) {
    const data = native.lseek(fd, at, SEEK_DATA)
    // A file system without SEEK_DATA either refuses it or says that all is data.
    if (data < 0 && native.errno() !== ERRNO.ENXIO) return undefined
    if (data < 0) break
    const block = Math.floor(data / blockBytes)
    if (block < marks.length) marks[block] = 1
    at = (block + 1) * blockBytes
  }
  return marks
}

/**
 * The stretches of a file's first `sizeBytes` bytes that are no holes, in order, as exactly as the file system tells: by its blocks. One or two system calls each, when it is asked for.
 * Moves the descriptor's offset.
 * @throws ThawError UNSUPPORTED if the file system cannot tell, UNAVAILABLE if the disk fails
 */
export function* dataStretches(native: Native, file: OpenFile, sizeBytes: number): Generator<DataStretch> {
  for (let at = 0; at < sizeBytes; ) {
    const from = seek(native, file, at, SEEK_DATA) ?? sizeBytes
    if (from >= sizeBytes) return
    // There is a hole behind the last byte of every file. If not, the file was cut meanwhile, and reading it will tell.
    const to = Math.min(seek(native, file, from, SEEK_HOLE) ?? sizeBytes, sizeBytes)
    yield { from, to }
    at = to
  }
}

/** Undefined if there is no such place from `at` on. */
function seek(native: Native, { fd, path }: OpenFile, at: number, whence: number): number | undefined {
  const found = native.lseek(fd, at, whence)
  if (found >= 0) return found
  const errno = native.errno()
  if (errno === ERRNO.ENXIO) return undefined
  const code = errno === ERRNO.EINVAL || errno === ERRNO.EOPNOTSUPP ? 'UNSUPPORTED' : 'UNAVAILABLE'
  throw new ThawError(code, `cannot find the holes of ${path}: lseek failed with errno ${errno}`, { object: path })
}
