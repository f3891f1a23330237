/** A process that serves a memory image to one VMM until it is killed. Arguments: store, keyring, snapshot, socket, folder for overlays. Prints a line when it serves. */
import { serveUffd } from '../../src/frontend/uffd.ts'
import { fileKeyring, openStore } from '../../src/index.ts'
import { createCache } from '../../src/open-cache.ts'

const [url, keyring, id, socket, overlays] = process.argv.slice(2)
const store = await openStore(url!, { keyring: await fileKeyring(keyring!), cache: await createCache() })
const snapshot = await store.open(id!)
const restore = await snapshot.restore({ overlay: { dir: overlays! } })
const pager = await serveUffd(restore, 'memory', { socket: socket! })
console.log('serving')
await pager.closed
