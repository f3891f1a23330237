/** A process of its own that reads from a snapshot through an engine on a worker and closes nothing: `node forgetful-child.ts STORE KEYRING ID`. Prints what it read, in hex. */

import { fileKeyring, openStore } from '../../src/index.ts'
import { createCache } from '../../src/open-cache.ts'

const [url, keys, id] = process.argv.slice(2)
const cache = await createCache({ memoryBytes: 0, thread: 'worker' })
await cache.engine.openLine('eventfd')
const store = await openStore(url!, { cache, keyring: await fileKeyring(keys!) })
const snapshot = await store.open(id!)
console.log(Buffer.from(await snapshot.image('memory').read(4096, 16)).toString('hex'))
