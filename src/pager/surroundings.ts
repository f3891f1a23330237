/** What the images of one pager share. */
import type { Arena } from '../arena.ts'
import { PAGE_BYTES } from '../chunk.ts'
import { type PagerLoop, TRANSFER_BYTES_MAX } from '../pager.ts'
import type { Native } from '../util/native.ts'
import { GatheredBytes, type PlacedMemory, placed } from './gathered.ts'
import { Staging } from './staging.ts'
import type { Wants } from './wants.ts'

/** Pages of a transfer that does not begin at one: the most pieces it can have. */
const PIECES_MAX = TRANSFER_BYTES_MAX / PAGE_BYTES + 1

export interface SurroundingsOptions {
  readonly arena: Arena
  readonly wants: Wants
  /** Of the thread's loop. */
  readonly timers: Pick<PagerLoop, 'after'>
  /** Undefined: nobody needs addresses. */
  readonly native: Native | undefined
  /** Counts what was found in the arena, as `Engine.countHits`. */
  countHits(chunks: number, bytes: number): void
}

export class ImageSurroundings {
  readonly arena: Arena
  readonly wants: Wants
  readonly timers: SurroundingsOptions['timers']
  readonly countHits: SurroundingsOptions['countHits']
  readonly staging: Staging
  readonly zeros: PlacedMemory
  /** A page that is put together to be written. */
  readonly page: Buffer = Buffer.alloc(PAGE_BYTES)
  readonly native: Native | undefined
  /** Address of each segment of the arena. */
  readonly #segments: readonly PlacedMemory[]
  readonly #gathered: GatheredBytes[] = []

  constructor({ arena, wants, timers, native, countHits }: SurroundingsOptions) {
    this.arena = arena
    this.wants = wants
    this.timers = timers
    this.native = native
    this.countHits = countHits
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
