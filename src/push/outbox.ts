/**
 * Chunks on their way from the sealing threads to the store. Bounded by the slots they hold; the first failure ends the push.
 */

import type { SealedPages } from '../seal/tasks.ts'
import type { CallOptions } from '../store.ts'
import type { Slot } from '../util/slab.ts'
import type { ChunkWriter } from './chunk-writer.ts'

export class Outbox {
  readonly #writer: ChunkWriter
  readonly #options: CallOptions
  readonly #underWay = new Set<Promise<void>>()
  readonly #failed: AbortController

  /** `failed` is aborted with the first error. */
  constructor(writer: ChunkWriter, failed: AbortController, options: CallOptions) {
    this.#writer = writer
    this.#failed = failed
    this.#options = options
  }

  reserve(): number {
    return this.#writer.reserve()
  }

  /** Stores the chunk when it is sealed, then releases the slot. */
  send(chunk: number, slot: Slot, sealed: Promise<SealedPages> | SealedPages): void {
    const sent = this.#send(chunk, slot, sealed)
      .catch(error => this.#failed.abort(error))
      .finally(() => this.#underWay.delete(sent))
    this.#underWay.add(sent)
  }

  async #send(chunk: number, slot: Slot, sealed: Promise<SealedPages> | SealedPages): Promise<void> {
    try {
      await this.#writer.write(chunk, await sealed, slot, this.#options)
    } finally {
      slot.release()
    }
  }

  /** Settles when nothing is under way. */
  async drained(): Promise<void> {
    await Promise.all(this.#underWay)
  }
}
