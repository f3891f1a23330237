/**
 * A process of its own that mounts a snapshot, for tests that kill it or that take its rights: `node fuse-child.ts URL KEYS ID DIR`. Prints what came of it. Anything on its input
 * has reads of chunks hang from then on.
 */
import { isThawError } from '../../src/errors.ts'
import { mount } from '../../src/frontend/fuse.ts'
import { fileKeyring } from '../../src/index.ts'
import { createCache } from '../../src/open-cache.ts'
import { openStoreOver } from '../../src/snapshot-store.ts'
import { openObjectStore } from '../../src/store/open.ts'
import { patchedStore } from '../patched-store.ts'

const [url, keys, id, dir] = process.argv.slice(2) as [string, string, string, string]
let isHanging = false
const never = new Promise<never>(() => undefined)
const inner = await openObjectStore(url)
const objects = patchedStore(inner, {
  get: (key, options) => (isHanging ? never : inner.get(key, options)),
  getInto: (key, target, options) => (isHanging ? never : inner.getInto(key, target, options)),
})
process.stdin.on('data', () => {
  isHanging = true
  console.log('hangs')
})

const cache = await createCache({ memoryBytes: 2 ** 26, thread: 'main' })
const store = await openStoreOver(objects, { cache, keyring: await fileKeyring(keys) })
const restore = await (await store.open(id)).restore({ onEvent: ({ kind }) => console.log(kind) })
try {
  const { ended } = await mount(restore, dir)
  console.log('ready')
  await ended
} catch (error) {
  console.log(isThawError(error) ? error.code : error)
}
await store.close()
await cache.close()
process.stdin.destroy()
