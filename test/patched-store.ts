/**
 * A store with some methods replaced, for tests that need one call to go wrong in one way. Systematic faults are the fault store's.
 */
import type { ObjectStore } from '../src/store.ts'

export function patchedStore(store: ObjectStore, patch: Partial<ObjectStore>): ObjectStore {
  return new Proxy(store, {
    get(target, name) {
      const found = Reflect.get(name in patch ? patch : target, name)
      return typeof found === 'function' ? found.bind(target) : found
    },
  })
}
