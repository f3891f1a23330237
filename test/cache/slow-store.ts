/** A store in memory whose reads take virtual time and leave a trace, for tests of what reads from it. */
import type { CallOptions, ObjectStore } from '../../src/store.ts'
import { memoryStore, type VirtualClock } from '../../src/testing.ts'
import { patchedStore } from '../patched-store.ts'

export const OBJECT_BYTES = 1000

export interface SlowRead {
  /** From 1. */
  readonly number: number
  readonly key: string
}

export interface SlowStoreOptions {
  readonly clock: VirtualClock
  readonly delayMs: (read: SlowRead) => number
  /** Go on with what was aborted, and write to its target at the end. */
  readonly deaf?: boolean
  /** What a read fails with after its delay; undefined: it does not. */
  readonly error?: (read: SlowRead) => Error | undefined
}

export class SlowStore {
  readonly objects: ObjectStore
  /** `<key> at <ms>`, for every read that began. */
  readonly trace: string[] = []
  underWay = 0
  underWayMax = 0
  bytesUnderWayMax = 0
  readonly #options: SlowStoreOptions
  #bytesUnderWay = 0

  constructor(options: SlowStoreOptions) {
    this.#options = options
    const memory = memoryStore({ like: 's3' })
    this.objects = patchedStore(memory, {
      getInto: (key, target, call = {}) => this.#read(key, target.length, call, () => memory.getInto(key, target)),
      get: (key, call) => this.#read(key, call.sizeMax, call, () => memory.get(key, call)),
    })
  }

  /** Puts objects `0`, `1`, … of OBJECT_BYTES bytes, each filled with its number. */
  async fill(count: number): Promise<this> {
    for (let number = 0; number < count; number++) await this.objects.put(`${number}`, Buffer.alloc(OBJECT_BYTES, number))
    return this
  }

  async #read<T>(key: string, bytes: number, { signal }: CallOptions, read: () => Promise<T>): Promise<T> {
    const { clock, delayMs, deaf = false, error } = this.#options
    this.trace.push(`${key} at ${clock.now()}`)
    const call = { number: this.trace.length, key }
    this.underWayMax = Math.max(this.underWayMax, ++this.underWay)
    this.#bytesUnderWay += bytes
    this.bytesUnderWayMax = Math.max(this.bytesUnderWayMax, this.#bytesUnderWay)
    try {
      await clock.sleep(delayMs(call), deaf ? undefined : signal)
      const failure = error?.(call)
      if (failure !== undefined) throw failure
      return await read()
    } finally {
      this.underWay--
      this.#bytesUnderWay -= bytes
    }
  }
}
