/**
 * Whether a command reads through caches: only if a tier is set, or somebody is to see its figures. Otherwise it pays for none of that, not even for loading it.
 */
import { readCacheSettings } from './cache-settings.ts'
import type { Caches } from './caches.ts'
import type { Invocation } from './invocation.ts'

/** The caches that are set; undefined: none. The caller disposes of them, after the store. */
export async function openCaches(invocation: Invocation): Promise<Caches | undefined> {
  const settings = readCacheSettings(invocation.flags)
  const { disk, l2, metrics, stateDir } = settings
  if (disk === undefined && l2 === undefined && metrics === undefined && stateDir === undefined) return undefined
  const { Caches } = await import('./caches.ts')
  return await Caches.open(invocation, settings)
}
