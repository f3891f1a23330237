/**
 * Which parts of a file hold data, by lseek(2) with SEEK_DATA, which Node does not offer: through koffi, an optional dependency. Without it, or where the file
 * system cannot tell, callers read the holes and find the zeros themselves.
 */
import type { Stats } from 'node:fs'

const SEEK_DATA = 3
const DISK_BLOCK_BYTES = 512

type Lseek = (fd: number, offset: number, whence: number) => number

/**
 * Marks the blocks of `blockBytes` that may hold data: `marks[i]` = 1; a block marked 0 is a hole from its first byte to its last.
 * @returns undefined if the file has no holes, or they cannot be found.
 */
export async function dataBlocks(fd: number, stats: Stats, blockBytes: number): Promise<Uint8Array | undefined> {
  if (stats.blocks * DISK_BLOCK_BYTES >= stats.size) return undefined
  const lseek = await loadLseek()
  if (lseek === undefined) return undefined
  const marks = new Uint8Array(Math.ceil(stats.size / blockBytes))
  for (let at = 0; at < stats.size; ) {
    const data = Number(lseek(fd, at, SEEK_DATA))
    // -1 is ENXIO (no data from here on) when something was found before; a file system without SEEK_DATA says that all is data.
    if (data < 0) break
    const block = Math.floor(data / blockBytes)
    if (block < marks.length) marks[block] = 1
    at = (block + 1) * blockBytes
  }
  return marks
}

async function loadLseek(): Promise<Lseek | undefined> {
  if (process.platform !== 'linux') return undefined
  try {
    const { default: koffi } = await import('koffi')
    return koffi.load('libc.so.6').func('int64_t lseek(int fd, int64_t offset, int whence)') as unknown as Lseek
  } catch {
    // Not installed, or another C library: slower, not wrong.
    return undefined
  }
}
