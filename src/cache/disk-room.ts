/**
 * How much a disk cache may keep: its bound, and never more than leaves 5 % of the disk free, whoever fills the rest. The disk is asked at most once a second.
 */
import { statfs } from 'node:fs/promises'
import type { Clock } from '../util/clock.ts'
import type { CacheFiles } from './disk-files.ts'

const FREE_SHARE_MIN = 0.05
const MEASURED_FOR_MS = 1000

export class Room {
  readonly #files: CacheFiles
  readonly #clock: Clock
  /** What may be used as far as the disk goes, as of the last look at it. */
  #diskLimitBytes = 0
  #measuredAt = Number.NEGATIVE_INFINITY

  constructor(files: CacheFiles, clock: Clock) {
    this.#files = files
    this.#clock = clock
  }

  /** The most bytes there may be, of which `usedBytes` are there now. Raw errors of `node:fs`. */
  async limit(usedBytes: number, boundBytes: number): Promise<number> {
    if (this.#clock.now() - this.#measuredAt >= MEASURED_FOR_MS) {
      this.#diskLimitBytes = usedBytes + (await this.#files.withFolders(() => spareBytes(this.#files.root)))
      this.#measuredAt = this.#clock.now()
    }
    return Math.min(boundBytes, this.#diskLimitBytes)
  }

  /** The next limit is measured anew. */
  forget(): void {
    this.#measuredAt = Number.NEGATIVE_INFINITY
  }
}

/** What can be written before less than the minimum is free; negative if there is less already. File systems without a size have room. */
async function spareBytes(path: string): Promise<number> {
  const { bsize, blocks, bavail } = await statfs(path)
  return blocks === 0 ? Number.POSITIVE_INFINITY : (bavail - blocks * FREE_SHARE_MIN) * bsize
}
