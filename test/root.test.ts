/** A store is made once, whoever comes first; its roots, their lives, and what is refused. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { encodeDocument } from '../src/document.ts'
import { type ErrorCode, isThawError } from '../src/errors.ts'
import { readIdentity, requireKinship } from '../src/identity.ts'
import { createFileKeyring, type FileKeyring } from '../src/keys/file.ts'
import { rootKey, STORE_KEY, stateKey } from '../src/layout.ts'
import { advanceRoot, createRoot, initStore, listRoots, readRoot, readRootState } from '../src/root.ts'
import { memoryStore } from '../src/store/memory.ts'
import type { ObjectStore } from '../src/store.ts'
import { patchedStore } from './patched-store.ts'

let folder: string
let keyring: FileKeyring
let other: FileKeyring
let worker: FileKeyring
let store: ObjectStore

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'thaw-root-'))
  keyring = await createFileKeyring(join(folder, 'keys'))
  other = await createFileKeyring(join(folder, 'other'))
  worker = await keyring.exportKeyring(join(folder, 'worker'), 'worker')
})

afterAll(() => rm(folder, { recursive: true, force: true }))

beforeEach(() => {
  store = memoryStore()
})

function fails(code: ErrorCode): object {
  return expect.objectContaining({ code })
}

async function keys(): Promise<string[]> {
  return (await Array.fromAsync(store.list(''))).map(({ key }) => key)
}

async function plant(key: string, bytes: Uint8Array): Promise<void> {
  await store.put(key, bytes)
  await store.sync()
}

describe('init', () => {
  it('makes a store with one active root, and finds both again', async () => {
    const { identity, roots } = await initStore(store, keyring)
    const [root] = roots
    expect(roots).toHaveLength(1)
    expect(identity.storeId).toMatch(/^[0-9a-f]{32}$/)
    expect(identity.domains).toEqual(await keyring.checkValues(identity.storeId))
    expect(root).toMatchObject({ profile: { codec: 'zstd', level: 1, zstd: process.versions.zstd }, current: { seq: 1, state: 'active' } })
    expect(root!.salt).toHaveLength(32)
    expect(await keys()).toEqual([rootKey(root!.id), stateKey(root!.id, 1), STORE_KEY])
    expect(await initStore(store, keyring)).toEqual({ identity, roots })
    expect(await readIdentity(store)).toEqual(identity)
    expect(await listRoots(store)).toEqual(roots)
  })

  it('at once by several makes one store with one root', async () => {
    const results = await Promise.all([1, 2, 3, 4].map(() => initStore(store, keyring)))
    for (const result of results) expect(result).toEqual(results[0])
    expect(await keys()).toHaveLength(3)
  })

  it('at once with two keyrings lets one win, and refuses the other', async () => {
    const results = await Promise.allSettled([initStore(store, keyring), initStore(store, other)])
    expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
    expect(results.find(({ status }) => status === 'rejected')).toEqual({ status: 'rejected', reason: fails('WRONG_KEY') })
    expect(await keys()).toHaveLength(3)
  })

  it('cut short at any write is made whole by running it again', async () => {
    for (let writesLeft = 0; writesLeft < 3; writesLeft++) {
      store = memoryStore()
      let left = writesLeft
      const dying = patchedStore(store, {
        async putIfAbsent(key: string, body: Uint8Array) {
          if (left-- <= 0) throw new Error('died')
          return store.putIfAbsent(key, body)
        },
      })
      await expect(initStore(dying, keyring)).rejects.toThrow('died')
      const before = await keys()
      expect(before).toHaveLength(writesLeft)
      expect(await listRoots(store)).toEqual([])
      const healed = await Promise.all([initStore(store, keyring), initStore(store, keyring)])
      for (const { roots } of healed) expect(roots).toEqual(await listRoots(store))
      expect(healed[0].roots).toHaveLength(1)
      expect(await keys()).toHaveLength(3)
    }
  })

  it('refuses another store’s keyring, and cannot be done with a worker’s', async () => {
    await expect(initStore(store, worker)).rejects.toEqual(fails('WRONG_KEY'))
    expect(await keys()).toEqual([])
    const { identity } = await initStore(store, keyring)
    await expect(initStore(store, other)).rejects.toEqual(fails('WRONG_KEY'))
    await expect(requireKinship(store, identity, other)).rejects.toEqual(fails('WRONG_KEY'))
    await requireKinship(store, identity, worker)
    expect((await initStore(store, worker)).identity).toEqual(identity)
  })

  it('was not run: NOT_FOUND says so', async () => {
    await expect(readIdentity(store)).rejects.toEqual(
      expect.objectContaining({ code: 'NOT_FOUND', message: expect.stringContaining('thaw init') }),
    )
  })

  it('makes no second root beside one that is no longer active', async () => {
    const { roots } = await initStore(store, keyring)
    await advanceRoot(store, roots[0]!.current, 'retired')
    expect((await initStore(store, keyring)).roots.map(({ id, current }) => [id, current.state])).toEqual([[roots[0]!.id, 'retired']])
  })
})

describe('roots', () => {
  it('are listed in the order of lookup', async () => {
    const [expired, active, retired] = [await createRoot(store), await createRoot(store), await createRoot(store)]
    await advanceRoot(store, retired.current, 'retired')
    await advanceRoot(store, await advanceRoot(store, expired.current, 'retired'), 'expired')
    const listed = await listRoots(store)
    expect(listed.map(({ id, current }) => [id, current.state])).toEqual([
      [active.id, 'active'],
      [retired.id, 'retired'],
      [expired.id, 'expired'],
    ])
    expect(new Set(listed.map(({ salt }) => Buffer.from(salt).toString('hex'))).size).toBe(3)
  })

  it('move on once, and never back', async () => {
    const { id, current } = await createRoot(store)
    const results = await Promise.allSettled([advanceRoot(store, current, 'retired'), advanceRoot(store, current, 'expired')])
    expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
    expect(results.find(({ status }) => status === 'rejected')).toEqual({ status: 'rejected', reason: fails('CONFLICT') })
    const now = await readRootState(store, id)
    expect(now!.seq).toBe(2)
    await expect(advanceRoot(store, now!, 'active')).rejects.toThrow(RangeError)
  })

  it('do not count before their first state, nor when they are none', async () => {
    const root = await createRoot(store)
    await store.delete(stateKey(root.id, 1))
    await plant('roots/Not-A-Root/state/00000001', Buffer.from('junk'))
    await plant(`roots/${root.id}/state/readme`, Buffer.from('junk'))
    expect(await readRootState(store, root.id)).toBeUndefined()
    expect(await readRoot(store, root.id)).toBeUndefined()
    expect(await listRoots(store)).toEqual([])
  })

  it('are CORRUPT with the documents of another', async () => {
    const [a, b] = [await createRoot(store), await createRoot(store)]
    const read = (key: string) => store.get(key, { sizeMax: 65536 })
    await plant(stateKey(a.id, 2), await read(stateKey(a.id, 1)))
    await expect(readRootState(store, a.id)).rejects.toEqual(fails('CORRUPT'))
    await plant(rootKey(b.id), await read(rootKey(a.id)))
    await expect(readRoot(store, b.id)).rejects.toEqual(fails('CORRUPT'))
  })
})

describe('each document', () => {
  it('is refused with any byte changed', async () => {
    const { roots } = await initStore(store, keyring)
    const { id } = roots[0]!
    for (const key of [STORE_KEY, rootKey(id), stateKey(id, 1)]) {
      const bytes = await store.get(key, { sizeMax: 65536 })
      for (const at of bytes.keys()) {
        const damaged = Uint8Array.from(bytes)
        damaged[at]! ^= 0x01
        await plant(key, damaged)
        const error = await initStore(store, keyring).catch(error => error)
        expect(isThawError(error, 'CORRUPT', 'BAD_FORMAT')).toBe(true)
      }
      await plant(key, bytes)
    }
    expect((await initStore(store, keyring)).roots).toEqual(roots)
  })
})

describe('store.json', () => {
  it('has a check value for each of three domains', async () => {
    const { identity } = await initStore(store, keyring)
    const [[domain, check]] = [...identity.domains] as [[string, string]]
    const body = { version: 1, store: identity.storeId, createdAt: identity.createdAt, domains: { [domain]: check } }
    await plant(STORE_KEY, encodeDocument({ encode: () => body, decode: () => body }, body))
    await expect(readIdentity(store)).rejects.toEqual(fails('BAD_FORMAT'))
  })
})
