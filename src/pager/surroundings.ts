/** What the images of one pager share. */
import type { Arena } from '../arena.ts'
import { PAGE_BYTES } from '../chunk.ts'
import { TRANSFER_BYTES_MAX } from '../pager.ts'
import type { Native } from '../util/native.ts'
import { GatheredBytes, type PlacedMemory, placed } from './gathered.ts'
import { Staging } from './staging.ts'
import type { Wants } from './wants.ts'

/** Pages of a transfer that does not begin at one: the most pieces it can have. */
const PIECES_MAX = TRANSFER_BYTES_MAX / PAGE_BYTES + 1

export class ImageSurroundings {
  readonly wants: Wants
  readonly arena: Arena
  readonly staging: Staging
  readonly zeros: PlacedMemory
  /** A page that is put together to be written. */
  readonly page: Buffer = Buffer.alloc(PAGE_BYTES)
  readonly native: Native | undefined
  /** Calls back in a later turn of the thread's loop. */
  readonly later: (callback: () => void) => void
  /** Address of each segment of the arena. */
  readonly #segments: readonly PlacedMemory[]
  readonly #gathered: GatheredBytes[] = []

  constructor(wants: Wants, native: Native | undefined, later: (callback: () => void) => void) {
    this.wants = wants
    this.later = later
    this.arena = wants.arena
    this.native = native
    this.staging = new Staging(native)
    this.zeros = placed(Buffer.from(new ArrayBuffer(TRANSFER_BYTES_MAX)), native)
    this.#segments = this.arena.segments.map(segment => placed(segment, native))
  }

  segmentOf(slot: number): PlacedMemory {
    return this.#segments[this.arena.segmentOf(slot)]!
  }

  takeGathered(): GatheredBytes {
    return this.#gathered.pop() ?? new GatheredBytes(this.arena, PIECES_MAX)
  }

  giveBackGathered(gathered: GatheredBytes): void {
    gathered.release()
    this.#gathered.push(gathered)
  }

  /** Memory for bytes of an overlay that a read copies; made when a restore first writes. */
  #copied: PlacedMemory | undefined
  get copied(): PlacedMemory {
    this.#copied ??= placed(Buffer.from(new ArrayBuffer(TRANSFER_BYTES_MAX)), this.native)
    return this.#copied
  }
}
