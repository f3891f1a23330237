/**
 * Packs changed pages densely, in the order of their image, into chunks of their own (docs/FORMAT.md section 5.3).
 */
import { endsPack, PAGE_BYTES } from '../chunk.ts'
import type { SealPool } from '../seal/pool.ts'
import type { Slot } from '../util/slab.ts'
import type { Outbox } from './outbox.ts'

/** Where a page went. */
export interface PackedPage {
  readonly chunk: number
  readonly first: number
}

export class Packer {
  readonly #pool: SealPool
  readonly #outbox: Outbox
  #slot: Slot | undefined
  #chunk = -1
  #count = 0

  constructor(pool: SealPool, outbox: Outbox) {
    this.#pool = pool
    this.#outbox = outbox
  }

  /** Makes room for one more page: `add` must follow, without a wait between. */
  async prepare(): Promise<void> {
    if (this.#slot !== undefined) return
    this.#slot = await this.#pool.acquire()
    this.#chunk = this.#outbox.reserve()
    this.#count = 0
  }

  /** Takes the page at `from` in `bytes`; `page` is its index in the image, and never goes down. */
  add(page: number, bytes: Uint8Array, from: number): PackedPage {
    const placed = { chunk: this.#chunk, first: this.#count }
    this.#slot!.bytes.set(bytes.subarray(from, from + PAGE_BYTES), this.#count++ * PAGE_BYTES)
    if (endsPack(page, this.#count)) this.end()
    return placed
  }

  /** Sends off the pack, if one was begun: at the end of an image. */
  end(): void {
    const slot = this.#slot
    if (slot === undefined) return
    this.#slot = undefined
    this.#outbox.send(this.#chunk, slot, this.#pool.run(slot, { kind: 'seal', pages: this.#count }))
  }

  /** Gives back the slot of a pack that will not be sent: after an error. */
  discard(): void {
    this.#slot?.release()
    this.#slot = undefined
  }
}
