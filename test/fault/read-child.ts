/**
 * A process of its own that reads a snapshot through a disk cache that it empties again and again, until it is killed: `node read-child.ts URL KEYS ID PATH`. Prints a line a
 * round, while chunks are being written.
 */
import { fileKeyring, openStore } from '../../src/index.ts'
import { createCache } from '../../src/open-cache.ts'

const [url, keys, id, path] = process.argv.slice(2)
const cache = await createCache({ memoryBytes: 0, disk: { path: path!, sizeBytes: 2 ** 30 }, thread: 'main' })
const store = await openStore(url!, { keyring: await fileKeyring(keys!), cache })
const image = (await store.open(id!)).image('memory')
for (let round = 0; ; round++) {
  await image.read(0, image.sizeBytes)
  console.log(`round ${round}`)
  await cache.clear(['disk'])
}
