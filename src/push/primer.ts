/**
 * Gives the L2 cache what a push stores, as it is stored: the bytes are in memory then, and the first restore anywhere finds them a millisecond away.
 *
 * Nothing of it fails a push. What a cache does not keep is counted, and fetched from the store by whoever needs it.
 */
import type { EngineStore } from '../engine.ts'
import type { PushCounts } from './progress.ts'

export class Primer {
  readonly #store: EngineStore
  readonly #counts: PushCounts

  constructor(store: EngineStore, counts: PushCounts) {
    this.#store = store
    this.#counts = counts
  }

  /** `sealed` may be reused when this settles. Never rejects. */
  async chunk(id: string, sealed: Uint8Array): Promise<void> {
    if (await this.#prime(id, sealed)) this.#counts.primedChunks++
    else this.#counts.primeFailures++
  }

  /** As `chunk`; the manifest is the last thing a push has, and is not counted if it is kept. */
  async manifest(id: string, bytes: Uint8Array): Promise<void> {
    if (!(await this.#prime(id, bytes))) this.#counts.primeFailures++
  }

  async #prime(id: string, bytes: Uint8Array): Promise<boolean> {
    return await this.#store.prime(id, bytes, ['l2']).catch(() => false)
  }
}
