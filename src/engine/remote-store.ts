/** A store and its snapshots, read through an engine on a worker. */
import assert from 'node:assert/strict'
import { ABSENT, type Arena } from '../arena.ts'
import type { FetchOptions, ObjectOptions, SealedBytes, SealedRef } from '../cache/tiered.ts'
import type { EngineStore, HeldSnapshot, Pinned, WantOptions } from '../engine.ts'
import { isThawError, ThawError, type Tier } from '../errors.ts'
import type { Owner } from '../util/gate.ts'
import { Lifetime } from '../util/lifetime.ts'
import { Slab, type SlabMemory } from '../util/slab.ts'
import type { ChunkColumns } from './chunk-table.ts'
import type { LinePromises } from './line-promises.ts'
import type { Lent, ResultOf } from './messages.ts'
import type { RemoteCalls } from './remote-calls.ts'
import { sharedCopy } from './shared-copy.ts'

/** The ways to the engine. */
export interface RemoteThread {
  readonly arena: Arena
  readonly calls: RemoteCalls
  readonly line: LinePromises
}

/** What came of looking at lent bytes. */
interface Outcome<T> {
  given?: { readonly value: T }
  thrown: unknown
}

export class RemoteStore implements EngineStore {
  readonly slab: SlabMemory
  readonly concurrency: number
  readonly #thread: RemoteThread
  readonly #number: number
  readonly #life = new Lifetime('the store')

  constructor(thread: RemoteThread, number: number, { slab, concurrency }: ResultOf['openStore']) {
    this.slab = slab
    this.concurrency = concurrency
    this.#thread = thread
    this.#number = number
  }

  hold({ segments, ids, sealedBytes, keys, pages }: ChunkColumns, root: string, owner?: Owner): Promise<HeldSnapshot> {
    return hold(this.#thread, this.#life, () => {
      const columns: ChunkColumns = {
        segments,
        ids: new Uint8Array(sharedCopy(ids)),
        sealedBytes: new Uint32Array(sharedCopy(sealedBytes)),
        keys: new Uint8Array(sharedCopy(keys)),
        pages: new Uint8Array(sharedCopy(pages)),
      }
      return this.#thread.calls.call({ kind: 'hold', store: this.#number, columns, root, owner })
    })
  }

  get(id: string, objectKey: string, options: ObjectOptions): Promise<Uint8Array> {
    const { sizeMax } = options
    return this.#life.run(options.signal, () =>
      this.#thread.calls.call({ kind: 'get', store: this.#number, id, objectKey, sizeMax }, options),
    )
  }

  withSealed<T>(ref: SealedRef, use: (sealed: SealedBytes) => T | Promise<T>, options: FetchOptions = {}): Promise<T> {
    return this.#life.run(options.signal, async () => {
      const outcome: Outcome<T> = { thrown: undefined }
      const onLent = async ({ slot, tier, sizeBytes }: Lent): Promise<void> => {
        try {
          outcome.given = { value: await use({ slot, tier, bytes: Slab.view(this.slab, slot).subarray(0, sizeBytes) }) }
        } catch (error) {
          outcome.thrown = error
          throw error
        }
      }
      const { urgency, signal, originOnly, withoutFills } = options
      const { id, objectKey, sizeBytes } = ref
      try {
        const request = {
          kind: 'withSealed',
          store: this.#number,
          ref: { id, objectKey, sizeBytes },
          reach: { originOnly, withoutFills },
        } as const
        await this.#thread.calls.call(request, { urgency, signal, onLent })
      } catch (error) {
        // What the caller threw comes back as it was; bad bytes come back with the object's name.
        throw outcome.thrown === undefined || isThawError(outcome.thrown, 'CORRUPT') ? error : outcome.thrown
      }
      assert(outcome.given !== undefined)
      return outcome.given.value
    })
  }

  prime(id: string, sealed: Uint8Array, tiers: readonly Tier[]): Promise<boolean> {
    return this.#life.run(undefined, () => {
      const copy = new Uint8Array(sealed)
      return this.#thread.calls.call({ kind: 'prime', store: this.#number, id, sealed: copy, tiers }, { transfer: [copy.buffer] })
    })
  }

  async close(): Promise<void> {
    if (this.#life.signal.aborted) return await this.#life.close()
    const closed = this.#life.close()
    try {
      await this.#thread.calls.call({ kind: 'closeStore', store: this.#number })
    } catch (error) {
      // The engine is closed, or its thread has ended: and so is the store.
      if (!isThawError(error, 'CLOSED', 'UNAVAILABLE')) throw error
    }
    await closed
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

/** A handle, once the engine has answered. A store that was closed meanwhile has none. */
async function hold(thread: RemoteThread, life: Lifetime, ask: () => Promise<ResultOf['hold']>): Promise<HeldSnapshot> {
  let held: HeldSnapshot | undefined
  try {
    return await life.run(undefined, async () => {
      held = new RemoteSnapshot(thread, await ask(), life)
      return held
    })
  } catch (error) {
    held?.release()
    throw error
  }
}

class RemoteSnapshot implements HeldSnapshot {
  readonly handle: number
  readonly numbers: Uint32Array
  readonly #thread: RemoteThread
  readonly #life: Lifetime
  #released = false

  constructor(thread: RemoteThread, { handle, numbers }: ResultOf['hold'], life: Lifetime) {
    this.handle = handle
    this.numbers = numbers
    this.#thread = thread
    this.#life = life
  }

  async want(chunk: number, options: WantOptions = {}): Promise<Pinned> {
    let pinned: Pinned | undefined
    try {
      return await this.#life.run(options.signal, async () => {
        pinned = this.#find(chunk) ?? (await this.#thread.line.want(this.handle, chunk, options))
        return pinned
      })
    } catch (error) {
      // The store was closed meanwhile: the caller is given an error, and no pin.
      if (pinned !== undefined) this.#thread.arena.unpin(pinned.slot)
      throw error
    }
  }

  /** A chunk that is there needs nobody's help. */
  #find(chunk: number): Pinned | undefined {
    this.#check()
    const number = this.numbers[chunk]
    if (number === undefined) throw new RangeError(`a snapshot of ${this.numbers.length} chunks has no chunk ${chunk}`)
    const slot = this.#thread.arena.pin(number)
    return slot === ABSENT ? undefined : { slot, tier: 'memory' }
  }

  #check(): void {
    if (this.#released) throw new ThawError('CLOSED', 'the snapshot is closed')
  }

  async lend(owner: Owner): Promise<HeldSnapshot> {
    this.#check()
    return await hold(this.#thread, this.#life, () => this.#thread.calls.call({ kind: 'lend', handle: this.handle, owner }))
  }

  release(): void {
    if (this.#released) return
    this.#released = true
    this.#thread.calls.release(this.handle)
  }
}
