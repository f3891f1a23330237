/**
 * Every byte of a small store's documents changed in turn, and of its chunks a sample; every object cut, lengthened and removed:
 * what was stored comes back, or one of the codes that docs/FORMAT.md names. Thousands of times in memory, where opening a store
 * takes a fraction of a millisecond; then a sample on a directory, through pull and verify, and a sample with the second reader.
 */
import { randomBytes } from 'node:crypto'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { PAGE_BYTES } from '../../src/chunk.ts'
import { openStore, type StorePushSpec } from '../../src/index.ts'
import { openDirectoryStore } from '../../src/store/directory.ts'
import type { ObjectStore } from '../../src/store.ts'
import { codeOfAsync } from '../code-of.ts'
import { patchedStore } from '../patched-store.ts'
import { FormatError } from '../reader-from-format/index.ts'
import { pieces, withPages } from '../small-store.ts'
import { allObjects, type InMemory, inMemory, openOver } from './memory-store.ts'
import { type ReaderKeys, readerKeys, readIndependently } from './second-reader.ts'

const REFUSALS: readonly (string | undefined)[] = ['CORRUPT', 'WRONG_KEY', 'BAD_FORMAT']
/** Of the bytes that an operation does not read, one in so many is flipped. */
const UNREAD_STRIDE = 61
const SECOND_READER_STRIDE = 43
/** A chunk's bytes stand under one hash: which of them is flipped makes no difference to who reads, so one in so many is. */
const CHUNK_STRIDE = 61

/** A snapshot of the store, by its tag, and its images. */
interface Stored {
  readonly tag: string
  readonly images: ReadonlyMap<string, Buffer>
  /** Keys of all objects that reading it reads. */
  readonly reads: ReadonlySet<string>
}

let memory: InMemory
let objects: ObjectStore
let original: ReadonlyMap<string, Buffer>
let snapshots: readonly Stored[]

beforeAll(async () => {
  memory = await inMemory()
  objects = memory.objects
  const dense = Buffer.concat([randomBytes(PAGE_BYTES), Buffer.alloc(PAGE_BYTES), Buffer.alloc(PAGE_BYTES, 'text')])
  const warm = withPages(dense, [[1, 7]])
  const images = {
    os: { memory: dense },
    runtime: { memory: warm, rootfs: Buffer.alloc(PAGE_BYTES + 900, 'short last page') },
    'acme//function': { memory: withPages(warm, [[2, 9]]), state: randomBytes(700) },
  }
  snapshots = [
    await store('os', { layer: 'os' }, images.os),
    await store('runtime', { layer: 'runtime', parent: 'os' }, images.runtime),
    await store('acme//function', { layer: 'function', tenant: 'acme', parent: 'runtime' }, images['acme//function']),
  ]
  original = await allObjects(objects)
})
afterAll(() => memory[Symbol.asyncDispose]())

async function store(tag: string, spec: Omit<StorePushSpec, 'images'>, images: Readonly<Record<string, Buffer>>): Promise<Stored> {
  const sources = Object.fromEntries(Object.entries(images).map(([name, bytes]) => [name, { stream: pieces(bytes) }]))
  await memory.store.push({ ...spec, images: sources, tag: tag.split('//').at(-1) })
  const reads = new Set<string>()
  const watched = patchedStore(objects, {
    get: (key, options) => objects.get(key, options).finally(() => reads.add(key)),
    getInto: (key, target, options) => objects.getInto(key, target, options).finally(() => reads.add(key)),
  })
  const stored = { tag, images: new Map(Object.entries(images)), reads }
  expect(await outcome(watched, stored)).toBe('right')
  return stored
}

/** What reading a whole snapshot comes to, for someone who has just opened the store: `right`, `wrong`, or the error's code or name. */
async function outcome(over: ObjectStore, { tag, images }: Stored): Promise<string | undefined> {
  let right = true
  const code = await codeOfAsync(async () => {
    // A turn of the event loop, without which nothing that was weakly held is ever collected.
    await setImmediate()
    await using opened = await openOver(over, memory.keyring)
    await using snapshot = await opened.open(tag)
    right = snapshot.images.length === images.size
    for (const image of snapshot.images) right &&= images.get(image.name)?.equals(await image.read(0, image.sizeBytes + 1)) ?? false
  })
  return code ?? (right ? 'right' : 'wrong')
}

/** Runs `work` while other bytes (or none) lie under a key. */
async function replaced<T>(key: string, bytes: Uint8Array | undefined, work: () => Promise<T>): Promise<T> {
  try {
    await (bytes === undefined ? objects.delete(key) : objects.put(key, bytes))
    return await work()
  } finally {
    await objects.put(key, original.get(key)!)
  }
}

/** One bit of the byte at `at`, another one from byte to byte. */
function flipped(bytes: Uint8Array, at: number): Buffer {
  const changed = Buffer.from(bytes)
  changed[at]! ^= 1 << (at % 8)
  return changed
}

function lengthsOf(bytes: Uint8Array): Buffer[] {
  const lengths = [0, 1, bytes.length >> 1, bytes.length - 1]
  return [...lengths.map(length => Buffer.from(bytes.subarray(0, length))), Buffer.concat([bytes, Buffer.alloc(1)])]
}

describe('a small store', () => {
  it('is read to its last object, and has each kind of them', () => {
    const read = new Set(snapshots.flatMap(({ reads }) => [...reads]))
    expect([...original.keys()].filter(key => !read.has(key))).toEqual([])
    const kinds = new Set([...original.keys()].map(key => key.split('/')[key.startsWith('roots/') ? 2 : 0]))
    expect(kinds).toEqual(new Set(['store.json', 'root.json', 'state', 'chunks', 'manifests', 'keys', 'tags']))
  })

  it('with any byte of what is read flipped is refused', { timeout: 180_000 }, async () => {
    const unexpected: string[] = []
    for (const [key, bytes] of original) {
      const reader = snapshots.findLast(({ reads }) => reads.has(key))!
      const stride = key.includes('/chunks/') ? CHUNK_STRIDE : 1
      for (let at = 0; at < bytes.length; at += stride) {
        const seen = await replaced(key, flipped(bytes, at), () => outcome(objects, reader))
        if (!REFUSALS.includes(seen)) unexpected.push(`${key} at ${at}: ${seen}`)
      }
    }
    expect(unexpected).toEqual([])
  })

  it('with any byte of what is not read flipped gives the right bytes', async () => {
    const unexpected: string[] = []
    for (const [key, bytes] of original) {
      for (const reader of snapshots.filter(({ reads }) => !reads.has(key))) {
        for (let at = 0; at < bytes.length; at += UNREAD_STRIDE) {
          const seen = await replaced(key, flipped(bytes, at), () => outcome(objects, reader))
          if (seen !== 'right') unexpected.push(`${reader.tag}, ${key} at ${at}: ${seen}`)
        }
      }
    }
    expect(unexpected).toEqual([])
  })

  it('with any object cut short or lengthened is refused, with any missing NOT_FOUND', async () => {
    const unexpected: string[] = []
    for (const [key, bytes] of original) {
      for (const reader of snapshots.filter(({ reads }) => reads.has(key))) {
        for (const other of lengthsOf(bytes)) {
          const seen = await replaced(key, other, () => outcome(objects, reader))
          if (!REFUSALS.includes(seen)) unexpected.push(`${reader.tag}, ${key} of ${other.length} bytes: ${seen}`)
        }
        const seen = await replaced(key, undefined, () => outcome(objects, reader))
        if (seen !== 'NOT_FOUND') unexpected.push(`${reader.tag}, without ${key}: ${seen}`)
      }
    }
    expect(unexpected).toEqual([])
  })

  it('is refused by the second reader for the same flips', async () => {
    const keys = await readerKeys(join(memory.dir, 'keys'))
    for (const snapshot of snapshots) expect(await secondOutcome(keys, snapshot)).toBe('right')
    const unexpected: string[] = []
    for (const [key, bytes] of original) {
      const reader = snapshots.findLast(({ reads }) => reads.has(key))!
      for (let at = key.length % SECOND_READER_STRIDE; at < bytes.length; at += SECOND_READER_STRIDE) {
        const seen = await replaced(key, flipped(bytes, at), () => secondOutcome(keys, reader))
        if (!['CORRUPT', 'BAD_FORMAT', 'NO_KEY'].includes(seen)) unexpected.push(`${key} at ${at}: ${seen}`)
      }
    }
    expect(unexpected).toEqual([])
  })
})

async function secondOutcome(keys: ReaderKeys, { tag, images }: Stored): Promise<string> {
  const [name, tenant] = tag.split('//').reverse()
  try {
    const read = await readIndependently(objects, keys, tenant ?? null, name!)
    const right = read.size === images.size && [...images].every(([image, bytes]) => read.get(image)?.equals(bytes))
    return right ? 'right' : 'wrong'
  } catch (error) {
    return error instanceof FormatError ? error.code : String(error)
  }
}

describe('on a directory', () => {
  it('a flipped byte in any object fails a pull, which leaves nothing, and shows in a verification', async () => {
    const url = join(memory.dir, 'store')
    await using directory = openDirectoryStore(url)
    for (const [key, bytes] of original) await directory.put(key, bytes)
    await directory.sync()
    const unexpected: string[] = []
    for (const [key, bytes] of original) {
      const reader = snapshots.findLast(({ reads }) => reads.has(key))!
      await directory.put(key, flipped(bytes, bytes.length >> 1))
      await directory.sync()
      const out = join(memory.dir, 'out')
      const pulled = await codeOfAsync(() => pull(url, reader.tag, out))
      const left = await readdir(out).catch(() => [])
      const verified = await verdict(url, reader.tag)
      if (!REFUSALS.includes(pulled) || left.length > 0 || !REFUSALS.includes(verified)) {
        unexpected.push(`${key}: pull ${pulled}, left ${left.join()}, verify ${verified}`)
      }
      await directory.put(key, bytes)
      await directory.sync()
    }
    expect(unexpected).toEqual([])
    expect(await verdict(url, 'acme//function')).toBeUndefined()
  })
})

async function pull(url: string, ref: string, out: string): Promise<void> {
  await using opened = await openStore(url, { keyring: memory.keyring })
  await using snapshot = await opened.open(ref)
  await snapshot.pull(out)
}

/** What a verification finds: the code it fails with, or that of the first bad object. */
async function verdict(url: string, ref: string): Promise<string | undefined> {
  let found: string | undefined
  const failed = await codeOfAsync(async () => {
    await using opened = await openStore(url, { keyring: memory.keyring })
    found = (await opened.verify(ref)).bad[0]?.code
  })
  return failed ?? found
}
