/**
 * A process of its own with a reader for each snapshot, all at a time: `node readers-child.ts URL KEYS MEMORY_BYTES ID...`. Prints how much its resident memory grew at most,
 * and what the arena held.
 */
import { fileKeyring, openStore } from '../../src/index.ts'
import { createCache } from '../../src/open-cache.ts'

const READ_BYTES = 256 * 1024

const [url, keys, memoryBytes, ...ids] = process.argv.slice(2)
const cache = await createCache({ memoryBytes: Number(memoryBytes), thread: 'main' })
const store = await openStore(url!, { keyring: await fileKeyring(keys!), cache })
const beforeBytes = process.memoryUsage.rss()
let mostBytes = beforeBytes
let readBytes = 0

async function readAll(id: string): Promise<void> {
  await using snapshot = await store.open(id)
  const image = snapshot.image('memory')
  const target = Buffer.alloc(READ_BYTES)
  for (let offset = 0; offset < image.sizeBytes; offset += READ_BYTES) {
    const bytes = await image.readInto(target, offset)
    readBytes += bytes
    mostBytes = Math.max(mostBytes, process.memoryUsage.rss())
  }
}

await Promise.all(ids.map(readAll))
const { chunks, chunksMax } = (await cache.stats()).memory
console.log(JSON.stringify({ chunks, chunksMax, readBytes, grownBytes: mostBytes - beforeBytes }))
await store.close()
await cache.close()
