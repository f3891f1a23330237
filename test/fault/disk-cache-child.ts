/**
 * A process of its own that fills a disk cache without end, until it is killed: `node disk-cache-child.ts PATH SIZE_BYTES ENTRY_BYTES`. Prints `open ROLE`, then `put N`
 * after the N-th entry. Ids are the hashes of the bytes.
 */
import { hash, randomBytes } from 'node:crypto'
import { openDiskCache } from '../../src/cache/disk.ts'

const [path, sizeBytes, entryBytes] = process.argv.slice(2)
const cache = await openDiskCache({ path: path!, sizeBytes: Number(sizeBytes) })
console.log(`open ${(await cache.describe()).details.role}`)
for (let count = 1; ; count++) {
  const sealed = randomBytes(Number(entryBytes))
  await cache.put(hash('sha256', sealed), sealed)
  console.log(`put ${count}`)
}
