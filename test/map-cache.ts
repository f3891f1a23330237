/** A cache of sealed bytes that is a map, and that a test can fill, spoil and make refuse. */
import type { CacheDescription, SealedCache } from '../src/cache.ts'

export interface MapCache extends SealedCache {
  readonly entries: Map<string, Buffer>
  /** While true nothing is kept. */
  full: boolean
}

export function mapCache(tier: SealedCache['tier']): MapCache {
  const entries = new Map<string, Buffer>()
  return {
    tier,
    name: `a map for ${tier}`,
    entries,
    full: false,
    async get(id, allocate) {
      const found = entries.get(id)
      if (found === undefined) return undefined
      const bytes = allocate(found.length)
      bytes.set(found)
      return bytes.subarray(0, found.length)
    },
    async put(id, sealed) {
      if (this.full) return false
      entries.set(id, Buffer.from(sealed))
      return true
    },
    async evict(id) {
      entries.delete(id)
    },
    async clear() {
      const { size } = entries
      entries.clear()
      return size
    },
    async describe(): Promise<CacheDescription> {
      const nothing = { remark: undefined, bytes: undefined, bytesMax: undefined, details: {} }
      return { tier, name: this.name, state: 'up', entries: entries.size, ...nothing }
    },
    close: async () => undefined,
    [Symbol.asyncDispose]: async () => undefined,
  }
}
