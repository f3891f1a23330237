/** Tags: compare-and-swap, deletion, what is not trusted, and what a store cannot roll back. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { type ErrorCode, isThawError } from '../src/errors.ts'
import { createFileKeyring } from '../src/keys/file.ts'
import type { Keyring } from '../src/keys.ts'
import { tagKey, tagPrefix } from '../src/layout.ts'
import type { TagName } from '../src/names.ts'
import { memoryStore } from '../src/store/memory.ts'
import type { ObjectStore } from '../src/store.ts'
import { type Tag, Tags } from '../src/tag.ts'
import { patchedStore } from './patched-store.ts'

const STORE_ID = '00112233445566778899aabbccddeeff'
const ROOT = '0011223344556677'
const TAG: TagName = { tenant: undefined, name: 'python:3.11' }
const target = (digit: string) => ({ snapshot: digit.repeat(64), root: ROOT })

let folder: string
let publisher: Keyring
let worker: Keyring
let stranger: Keyring
let store: ObjectStore
let tags: Tags

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'thaw-tag-'))
  const keyring = await createFileKeyring(join(folder, 'publisher'))
  publisher = keyring
  worker = await keyring.exportKeyring(join(folder, 'worker'), 'worker')
  stranger = await createFileKeyring(join(folder, 'stranger'))
})

afterAll(() => rm(folder, { recursive: true, force: true }))

beforeEach(() => {
  store = memoryStore()
  tags = new Tags(store, publisher, STORE_ID)
})

function fails(code: ErrorCode): object {
  return expect.objectContaining({ code })
}

/** Someone who has seen nothing yet. */
function reader(): Tags {
  return new Tags(store, worker, STORE_ID)
}

async function keysUnder(prefix: string): Promise<string[]> {
  return (await Array.fromAsync(store.list(prefix))).map(({ key }) => key)
}

async function bytesOf(tag: TagName, seq: number): Promise<Uint8Array> {
  return store.get(tagKey(tag, seq), { sizeMax: 65536 })
}

async function plant(key: string, bytes: Uint8Array): Promise<void> {
  await store.put(key, bytes)
  await store.sync()
}

async function names(listing: AsyncIterable<Tag>): Promise<string[]> {
  return (await Array.fromAsync(listing)).map(({ tenant, name }) => `${tenant ?? '_'}:${name}`)
}

describe('writing', () => {
  it('makes a tag that a worker reads', async () => {
    const written = await tags.write(TAG, target('a'))
    expect(written).toMatchObject({ ...TAG, seq: 1, ...target('a') })
    expect(await reader().read(TAG)).toEqual(written)
    expect(await keysUnder('')).toEqual(['tags/_/python%3A3.11/000000000001'])
    await expect(reader().write(TAG, target('b'))).rejects.toEqual(fails('WRONG_KEY'))
  })

  it('stores the one line of docs/FORMAT.md section 8', async () => {
    const { at, signer } = await tags.write({ tenant: 'acme', name: 'a/b' }, target('a'))
    const text = Buffer.from(await bytesOf({ tenant: 'acme', name: 'a/b' }, 1)).toString()
    const nonce = /"nonce":"([0-9a-f]{16})"/.exec(text)![1]!
    const body = `{"version":1,"store":"${STORE_ID}","tenant":"acme","name":"a/b","seq":1,"snapshot":"${'a'.repeat(64)}","root":"${ROOT}","at":"${at}","nonce":"${nonce}","signer":"${signer}"`
    expect(text).toMatch(/,"signature":"[A-Za-z0-9+/]{86}=="}\n$/)
    expect(text.startsWith(`${body},`)).toBe(true)
    const signature = Buffer.from(/"signature":"(.*)"/.exec(text)![1]!, 'base64')
    expect(await worker.verify(Buffer.from(`thaw-tag-1\n${body}}`), { keyId: signer, signature })).toBe(true)
  })

  it('moves a tag on, and keeps the newest four entries', async () => {
    for (const digit of '123456789') await tags.write(TAG, target(digit))
    expect(await reader().read(TAG)).toMatchObject({ seq: 9, ...target('9') })
    expect(await keysUnder(tagPrefix(TAG))).toEqual([6, 7, 8, 9].map(seq => tagKey(TAG, seq)))
  })

  it('swaps only what was expected', async () => {
    await expect(tags.write(TAG, target('a'), { expect: 'b'.repeat(64) })).rejects.toEqual(fails('CONFLICT'))
    await tags.write(TAG, target('a'), { expect: 'absent' })
    await expect(tags.write(TAG, target('b'), { expect: 'absent' })).rejects.toEqual(fails('CONFLICT'))
    await expect(tags.write(TAG, target('b'), { expect: 'c'.repeat(64) })).rejects.toEqual(fails('CONFLICT'))
    await tags.write(TAG, target('b'), { expect: 'a'.repeat(64) })
    expect(await tags.read(TAG)).toMatchObject(target('b'))
  })

  it('twice at once: one wins, the other is told, even for the same snapshot in the same millisecond', async () => {
    vi.useFakeTimers({ toFake: ['Date'] })
    onTestFinished(() => void vi.useRealTimers())
    for (let round = 0; round < 20; round++) {
      const writers = ['a', 'a', 'b', 'c'].map(digit => new Tags(store, publisher, STORE_ID).write(TAG, target(digit)))
      const results = await Promise.allSettled(writers)
      const won = results.filter(result => result.status === 'fulfilled')
      expect(won).toHaveLength(1)
      expect(await reader().read(TAG)).toEqual(won[0]!.value)
      for (const result of results) if (result.status === 'rejected') expect(result.reason).toEqual(fails('CONFLICT'))
    }
  })

  it('too late, its number pruned and free again, is a conflict', async () => {
    await tags.write(TAG, target('1'))
    const late = patchedStore(store, {
      async putIfAbsent(key: string, body: Uint8Array) {
        for (const digit of '23456') await tags.write(TAG, target(digit))
        return store.putIfAbsent(key, body)
      },
    })
    await expect(new Tags(late, publisher, STORE_ID).write(TAG, target('f'))).rejects.toEqual(fails('CONFLICT'))
    expect(await reader().read(TAG)).toMatchObject(target('6'))
  })

  it('succeeds though old entries cannot be deleted', async () => {
    const keeping = patchedStore(store, { delete: () => Promise.reject(new Error('denied')) })
    const writer = new Tags(keeping, publisher, STORE_ID)
    for (const digit of '123456') await writer.write(TAG, target(digit))
    expect(await keysUnder(tagPrefix(TAG))).toHaveLength(6)
    expect(await reader().read(TAG)).toMatchObject(target('6'))
  })

  it.each([
    [{ tenant: undefined, name: '../x' }, target('a')],
    [{ tenant: undefined, name: 'a\nb' }, target('a')],
    [{ tenant: '..', name: 'x' }, target('a')],
    [TAG, target('A')],
    [TAG, { snapshot: 'a'.repeat(64), root: '..' }],
  ])('%j is a wrong argument', async (tag, to) => {
    await expect(tags.write(tag, to)).rejects.toThrow(RangeError)
    expect(await keysUnder('')).toEqual([])
  })
})

describe('removing', () => {
  it('leaves a signed entry that says so', async () => {
    await tags.write(TAG, target('a'))
    await tags.remove(TAG)
    expect(await reader().read(TAG)).toBeUndefined()
    expect(Buffer.from(await bytesOf(TAG, 2)).toString()).toContain('"snapshot":null')
    expect(await names(reader().list(undefined))).toEqual([])
    await expect(tags.remove(TAG)).rejects.toEqual(fails('NOT_FOUND'))
    expect(await tags.write(TAG, target('b'), { expect: 'absent' })).toMatchObject({ seq: 3 })
  })

  it('swaps too', async () => {
    await expect(tags.remove(TAG)).rejects.toEqual(fails('NOT_FOUND'))
    await tags.write(TAG, target('a'))
    await expect(tags.remove(TAG, { expect: 'b'.repeat(64) })).rejects.toEqual(fails('CONFLICT'))
    const results = await Promise.allSettled([tags.remove(TAG), tags.write(TAG, target('b'))])
    expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
  })
})

describe('a tag is not trusted', () => {
  it('with any byte of its entry changed', async () => {
    await tags.write(TAG, target('a'))
    const bytes = await bytesOf(TAG, 1)
    for (const at of bytes.keys()) {
      const damaged = Uint8Array.from(bytes)
      damaged[at]! ^= 0x01
      await plant(tagKey(TAG, 1), damaged)
      const error = await reader()
        .read(TAG)
        .catch(error => error)
      expect(isThawError(error, 'CORRUPT', 'BAD_FORMAT')).toBe(true)
    }
  })

  it('when another keyring signed it', async () => {
    await new Tags(store, stranger, STORE_ID).write(TAG, target('a'))
    await expect(reader().read(TAG)).rejects.toEqual(fails('CORRUPT'))
    await expect(tags.write(TAG, target('b'))).rejects.toEqual(fails('CORRUPT'))
  })

  it('moved from another store, name, tenant or number', async () => {
    const bytes = await tags.write(TAG, target('a')).then(() => bytesOf(TAG, 1))
    await expect(new Tags(store, worker, STORE_ID.replace('0', '1')).read(TAG)).rejects.toEqual(fails('CORRUPT'))
    for (const [tag, seq] of [
      [{ ...TAG, name: 'other' }, 1],
      [{ ...TAG, tenant: 'acme' }, 1],
      [TAG, 2],
    ] as const) {
      await plant(tagKey(tag, seq), bytes)
      await expect(reader().read(tag)).rejects.toEqual(fails('CORRUPT'))
    }
  })

  it('if a number lower than one seen is the newest, or none is there', async () => {
    await tags.write(TAG, target('a'))
    await tags.write(TAG, target('b'))
    const seen = reader()
    await seen.read(TAG)
    await store.delete(tagKey(TAG, 2))
    await expect(seen.read(TAG)).rejects.toEqual(fails('CORRUPT'))
    await expect(tags.write(TAG, target('c'))).rejects.toEqual(fails('CORRUPT'))
    await store.delete(tagKey(TAG, 1))
    await expect(seen.read(TAG)).rejects.toEqual(fails('CORRUPT'))
    expect(await reader().read(TAG)).toBeUndefined()
  })

  it('and a bad entry leaves no memory of its number', async () => {
    await tags.write(TAG, target('a'))
    const seen = reader()
    await plant(tagKey(TAG, 9), Buffer.from('junk'))
    await expect(seen.read(TAG)).rejects.toEqual(fails('BAD_FORMAT'))
    await store.delete(tagKey(TAG, 9))
    expect(await seen.read(TAG)).toMatchObject(target('a'))
  })
})

describe('reading', () => {
  it('lists again when the entry was pruned in between, a bounded number of times', async () => {
    await tags.write(TAG, target('a'))
    let misses = 1
    const pruning = patchedStore(store, {
      async get(key: string, options: { sizeMax: number }) {
        return store.get(misses-- > 0 ? `${key}/gone` : key, options)
      },
    })
    const busy = new Tags(pruning, worker, STORE_ID)
    expect(await busy.read(TAG)).toMatchObject(target('a'))
    misses = Number.POSITIVE_INFINITY
    await expect(busy.read(TAG)).rejects.toEqual(fails('UNAVAILABLE'))
  })

  it('may overlap with writing', async () => {
    await tags.write(TAG, target('0'))
    const seen = reader()
    const writing = (async () => {
      for (let n = 0; n < 30; n++) await tags.write(TAG, target('f'))
    })()
    const reads = Array.from({ length: 100 }, () => seen.read(TAG))
    expect((await Promise.all(reads)).every(tag => tag !== undefined)).toBe(true)
    await writing
  })

  it('passes cancellation on', async () => {
    const reason = new Error('enough')
    await expect(tags.read(TAG, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
  })
})

describe('listing', () => {
  it('gives the tags of one tenant, of the platform, or of all', async () => {
    const wanted: TagName[] = [
      { tenant: undefined, name: 'python:3.11' },
      { tenant: undefined, name: 'a/b' },
      { tenant: 'acme', name: 'resize:7' },
      ...Array.from({ length: 40 }, (_, n) => ({ tenant: 'many', name: `tag-${String(n).padStart(2, '0')}` })),
    ]
    for (const tag of wanted) await tags.write(tag, target('a'))
    await plant('tags/_/Not%20A%20Tag/000000000001', Buffer.from('junk'))
    await plant('tags/_/python%3A3.11/readme', Buffer.from('junk'))
    await plant('tags/Nobody/x/000000000001', Buffer.from('junk'))
    expect(await names(reader().list(undefined))).toEqual(['_:a/b', '_:python:3.11'])
    expect(await names(reader().list('acme'))).toEqual(['acme:resize:7'])
    expect((await names(reader().listAll())).sort()).toEqual(wanted.map(({ tenant, name }) => `${tenant ?? '_'}:${name}`).sort())
    await expect(names(reader().list('..'))).rejects.toThrow(RangeError)
  })

  it('does not pass over a tag that cannot be trusted', async () => {
    await tags.write({ tenant: 'acme', name: 'good' }, target('a'))
    await new Tags(store, stranger, STORE_ID).write({ tenant: 'acme', name: 'bad' }, target('a'))
    await expect(names(reader().list('acme'))).rejects.toEqual(fails('CORRUPT'))
  })
})
