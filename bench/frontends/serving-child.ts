/** The process behind `serving.ts`: one cache, one open snapshot, and front ends as they are asked for. */
import { join } from 'node:path'
import { loadLibrary } from '../built.ts'
import type { Answer, Ask, ServingInput } from './serving.ts'

const { smoke, dir, store: url, ref, memoryBytes, spinMicroseconds, warm }: ServingInput = JSON.parse(process.argv[2]!)
const thaw = await loadLibrary(smoke)
const cache = await thaw.createCache({ memoryBytes, pagers: { spinMicroseconds } })
const keyring = await thaw.fileKeyring(join(dir, 'keys'))
const store = await thaw.openStore(url, { cache, keyring })
const snapshot = await store.open(ref)
if (warm) await readAll()
process.on('message', (ask: Ask) => {
  obey(ask).then(
    () => answer({ call: ask.call }),
    (error: unknown) => answer({ call: ask.call, error: error instanceof Error ? error.message : String(error) }),
  )
})
process.once('disconnect', () => process.exit())
answer({ call: 0 })

/** What began since the last `end`. */
const restores: Awaited<ReturnType<typeof snapshot.restore>>[] = []
let pushing: AbortController | undefined
let pushed: Promise<void> | undefined

async function obey(ask: Ask): Promise<void> {
  switch (ask.kind) {
    case 'mount':
      await thaw.mount(await begin(), ask.path, { writable: ask.writable, readAheadBytes: ask.readAheadBytes })
      return
    case 'nbd':
      await thaw.serveNbd(await begin(), 'memory', { socket: ask.path })
      return
    case 'uffd':
      await thaw.serveUffd(await begin(), 'memory', { socket: ask.path })
      return
    case 'end':
      await Promise.all(restores.splice(0).map(restore => restore.close()))
      return
    case 'push':
      pushing = new AbortController()
      pushed = pushAgain(ask.path, pushing.signal)
      return
    case 'stopPush':
      pushing?.abort()
      await pushed
  }
}

async function begin(): Promise<(typeof restores)[number]> {
  const restore = await snapshot.restore({ overlay: { dir: join(dir, 'overlays') } })
  restores.push(restore)
  return restore
}

async function readAll(): Promise<void> {
  const buffer = Buffer.alloc(2 ** 20)
  for (const image of snapshot.images) {
    for (let at = 0; at < image.sizeBytes; at += buffer.length) await image.readInto(buffer, at)
  }
}

/** Pushes an image over and over, each time as one that shares nothing. */
async function pushAgain(path: string, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) await store.push({ layer: 'os', images: { memory: { path } } }, { signal }).catch(() => undefined)
}

function answer(answer: Answer): void {
  process.send!(answer)
}
