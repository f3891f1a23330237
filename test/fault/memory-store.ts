/**
 * Small stores in memory, whose every byte a test can change, opened by the steps of the public `openStore`, which takes a URL only.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createFileKeyring, type FileKeyring, type Keyring } from '../../src/index.ts'
import { initStore } from '../../src/root.ts'
import { openStoreOver, type SnapshotStore } from '../../src/snapshot-store.ts'
import { memoryStore } from '../../src/store/memory.ts'
import type { ObjectStore } from '../../src/store.ts'
import { patchedStore } from '../patched-store.ts'

/** Larger than any object of these tests. */
const SIZE_MAX = 2 ** 28

export interface InMemory extends AsyncDisposable {
  /** A temporary folder; everything below it goes with the store. */
  readonly dir: string
  readonly keyring: FileKeyring
  /** A put is visible at once. */
  readonly objects: ObjectStore
  readonly store: SnapshotStore
  /** The only root. */
  readonly root: string
}

/** A store with the tenants acme and beta. */
export async function inMemory(): Promise<InMemory> {
  const dir = await mkdtemp(join(tmpdir(), 'thaw-fault-'))
  const keyring = await createFileKeyring(join(dir, 'keys'))
  await keyring.createTenant('acme')
  await keyring.createTenant('beta')
  return { dir, keyring, ...(await storeOf(keyring)), [Symbol.asyncDispose]: () => rm(dir, { recursive: true, force: true }) }
}

/** A new store of a keyring that is at hand. */
export async function storeOf(keyring: Keyring): Promise<Pick<InMemory, 'objects' | 'store' | 'root'>> {
  const objects = memoryStore({ like: 's3' })
  const { roots } = await initStore(objects, keyring)
  return { objects, store: await openOver(objects, keyring), root: roots[0]!.id }
}

/** Opens the store that lies in `objects`, as if by a new process. Closing it leaves `objects` open. */
export async function openOver(objects: ObjectStore, keyring: Keyring): Promise<SnapshotStore> {
  const left = patchedStore(objects, { close: async () => undefined, [Symbol.asyncDispose]: async () => undefined })
  return await openStoreOver(left, { keyring })
}

/** Every object, by ascending key. */
export async function allObjects(objects: ObjectStore): Promise<Map<string, Buffer>> {
  const found = new Map<string, Buffer>()
  for await (const { key } of objects.list('')) found.set(key, await bytesOf(objects, key))
  return found
}

export async function bytesOf(objects: ObjectStore, key: string): Promise<Buffer> {
  return Buffer.from(await objects.get(key, { sizeMax: SIZE_MAX }))
}
