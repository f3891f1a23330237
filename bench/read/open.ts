/** Opens a snapshot of 30 GiB whose every range is in use: for the first time, again while it is open, and for 200 restores. The chunks are not there: nobody reads. */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { LocalEngine } from '../../src/engine/local.ts'
import { createCache, createFileKeyring, initStore, openStore, type Restore, type Snapshot, type SnapshotStore } from '../../src/index.ts'
import { encodeWrappedKeys } from '../../src/keys/wrapped.ts'
import { manifestKey, wrappedKeysKey } from '../../src/layout.ts'
import { encodeManifest } from '../../src/manifest/encode.ts'
import { type Manifest, snapshotIdOf } from '../../src/manifest.ts'
import { openObjectStore } from '../../src/store/open.ts'
import { longestStep } from '../../test/longest-step.ts'
import { type Bench, inTurns, median, type Section, timed } from '../harness.ts'
import { syntheticManifest } from '../manifest/synthetic.ts'

const IMAGE_BYTES = 30 * 2 ** 30
const SMOKE_BYTES = 2 ** 28
const RESTORES = 200
const STEP_MS_TARGET = 2
const RESTORE_BYTES_TARGET = 2 ** 20

export async function open({ dir, runs, smoke }: Bench): Promise<readonly Section[]> {
  const url = `file://${dir}/open-store`
  const keyring = await createFileKeyring(`${dir}/open-keys`)
  const manifest = syntheticManifest(smoke ? SMOKE_BYTES : IMAGE_BYTES, 0)
  const { root } = await initStore(url, { keyring })
  const dataKey = randomBytes(32)
  const bytes = encodeManifest(manifest, dataKey)
  const snapshotId = snapshotIdOf(bytes)
  const id = snapshotId.toString('hex')
  await using objects = await openObjectStore(url)
  await objects.put(wrappedKeysKey(root, id), encodeWrappedKeys(snapshotId, [await keyring.wrap(dataKey, snapshotId, undefined)]))
  await objects.put(manifestKey(root, id), bytes)
  await objects.sync()

  await using cache = await createCache({ memoryBytes: 0 })
  await using store = await openStore(url, { keyring, cache })
  const again = async (): Promise<{ readonly seconds: number }> => {
    await using _ = await store.open(id)
    return await timed(async () => await (await store.open(id)).close())
  }
  const timings = await inTurns(
    [
      { name: 'first open', run: () => timed(async () => await (await store.open(id)).close()) },
      { name: 'further open', run: again },
    ],
    runs,
  )
  const steps: number[] = []
  for (let run = 0; run < runs; run++) steps.push(await longestHoldMs(manifest, root))
  return [
    {
      name: 'open',
      title: `a snapshot of ${manifest.pages.length} chunks`,
      timings,
      goals: [
        { what: "longest step of the engine's thread, ms", value: median(steps), bound: 'at most', target: STEP_MS_TARGET },
        { what: 'bytes of each of 200 restores', value: await bytesOfRestore(store, id), bound: 'at most', target: RESTORE_BYTES_TARGET },
      ],
      notes: [],
    },
  ]
}

/** What the engine's thread does when a snapshot is opened, lent and closed. */
async function longestHoldMs(manifest: Manifest, root: string): Promise<number> {
  await using engine = new LocalEngine({ memoryBytes: 0, caches: [] })
  await using objects = await openObjectStore('file:///dev/null/no-store')
  await using store = await engine.openStore(objects)
  const work = async (): Promise<void> => {
    const held = await store.hold(manifest, root)
    for (let restore = 0; restore < RESTORES; restore++) (await held.lend({ tenant: '', restore: `r${restore}` })).release()
    held.release()
    await store.hold(manifest, root)
  }
  return await longestStep(work)
}

/** Memory of the process for each further snapshot and restore of it, beyond the first. */
async function bytesOfRestore(store: SnapshotStore, id: string): Promise<number> {
  await using first = await store.open(id)
  await using _ = await first.restore()
  const before = await residentBytes()
  const opened: (Snapshot | Restore)[] = []
  for (let restore = 0; restore < RESTORES; restore++) {
    const snapshot = await store.open(id)
    opened.push(snapshot, await snapshot.restore())
  }
  const after = await residentBytes()
  for (const one of opened) await one.close()
  return Math.max(0, after - before) / RESTORES
}

async function residentBytes(): Promise<number> {
  globalThis.gc?.()
  await sleep(200)
  return process.memoryUsage.rss()
}
