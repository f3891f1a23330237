/**
 * Pushes one image through the public API, in a process that a test kills: prints how far it is, a word a line.
 *
 * Arguments: store, keyring, image.
 */
import { writeSync } from 'node:fs'
import { fileKeyring, openStore } from '../../src/index.ts'

const [url, keyring, image] = process.argv.slice(2) as [string, string, string]
const said = new Set<string>()

/** Synchronously: what was printed has happened. */
function say(word: string): void {
  if (said.has(word)) return
  said.add(word)
  writeSync(1, `${word}\n`)
}

await using store = await openStore(url, { keyring: await fileKeyring(keyring) })
say('opened')
await store.push(
  { layer: 'os', tag: 'image:1', images: { memory: { path: image } } },
  { onProgress: ({ phase }) => say(phase === 'images' ? 'reading' : phase) },
)
say('done')
