/** How a value lies on the servers: here, whole under one key; redis-striped.ts is the other way. */
import { copyWhole } from '../util/copy.ts'
import { KEY_PREFIX } from './redis-admin.ts'
import type { RedisTarget } from './redis-target.ts'

/** A value that was found, not yet put into memory of its reader. */
export interface Found {
  readonly sizeBytes: number
  /** Writes the value to the start of `target`, which has room for it. */
  copyTo(target: Uint8Array): void
}

export interface RedisLayout {
  readonly targets: readonly RedisTarget[]
  /** How many keys one value takes. */
  readonly keysPerValue: number
  /** How many nodes may be missing while every value can still be read. */
  readonly nodesToSpare: number
  get(id: string, signal: AbortSignal | undefined): Promise<Found | undefined>
  /** Settles when it is known whether the value is kept. `value` may be reused at once; `onReleased` says when the memory taken for it is free again. */
  put(id: string, value: Uint8Array, signal: AbortSignal | undefined, onReleased: () => void): Promise<boolean>
  evict(id: string, signal: AbortSignal | undefined): Promise<void>
}

/** `targetOf` says which of the targets has an id. */
export function wholeLayout(targets: readonly RedisTarget[], targetOf: (id: string) => RedisTarget): RedisLayout {
  const keyOf = (id: string): string => `${KEY_PREFIX}${id}`
  return {
    targets,
    keysPerValue: 1,
    nodesToSpare: 0,
    async get(id, signal) {
      const value = await targetOf(id).get(keyOf(id), signal)
      return value === undefined ? undefined : { sizeBytes: value.length, copyTo: target => copyWhole(value, target) }
    },
    async put(id, value, signal, onReleased) {
      // A copy, because ioredis may send it (again, to where a slot moved) after the caller's time is up.
      await targetOf(id).set(keyOf(id), Buffer.from(value), signal, onReleased)
      return true
    },
    evict: (id, signal) => targetOf(id).unlink(keyOf(id), signal),
  }
}
