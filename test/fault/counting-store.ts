/** Counts how often each object is read, for tests that say how often that may be. */
import type { ObjectStore } from '../../src/store.ts'
import { patchedStore } from '../patched-store.ts'

export interface CountingStore {
  readonly objects: ObjectStore
  /** By key. */
  readonly reads: Map<string, number>
}

export function countingStore(inner: ObjectStore): CountingStore {
  const reads = new Map<string, number>()
  const count = (key: string): void => void reads.set(key, (reads.get(key) ?? 0) + 1)
  const objects = patchedStore(inner, {
    get: (key, options) => {
      count(key)
      return inner.get(key, options)
    },
    getInto: (key, target, options) => {
      count(key)
      return inner.getInto(key, target, options)
    },
  })
  return { objects, reads }
}
