/**
 * Does a provider keep the contract of store.ts? `thaw store check URL` runs this against a store, in a folder `check-<random>/` of its own that it
 * removes. Providers that speak S3 differ most in what thaw leans on most: some take `If-None-Match` and ignore it, some list late or out of order.
 *
 * It writes about a thousand small objects (one more page than S3 lists at once) and takes seconds. It cannot test durability, only what answers say.
 */
import { hash, randomBytes } from 'node:crypto'
import { isThawError, ThawError } from '../errors.ts'
import type { CallOptions, ListedObject, ObjectStore } from '../store.ts'
import { forEachAtOnce } from '../util/at-once.ts'
import { compareKeys } from './object-key.ts'

/** Largest sealed chunk (docs/FORMAT.md section 5): 129 × 4096. */
const CHUNK_BYTES_MAX = 528_384
/** S3 lists at most 1,000 objects a page. */
const LISTED_OBJECTS = 1_005
const RACERS = 8
const SIZE_MAX = 2 ** 20

export interface CheckResult {
  readonly name: string
  readonly ok: boolean
  /** One line: what was seen. */
  readonly detail: string
}

interface Probe extends CallOptions {
  readonly store: ObjectStore
  /** `check-<random>/<check>/`. */
  readonly folder: string
}

/** Resolves to what it saw, throws what is wrong. */
type Check = (probe: Probe) => Promise<string>

/**
 * Runs every check, in turn; the results come as they are known. A failed cleanup is the last result. Throws if aborted, or if nothing can be written: a store that is not
 * there (NOT_FOUND), out of reach (UNAVAILABLE) or closed to us (DENIED) has not failed a check.
 */
export async function* checkStore(store: ObjectStore, options: CallOptions = {}): AsyncGenerator<CheckResult> {
  const folder = freshFolder()
  await store.put(`${folder}reached`, Buffer.from('x'), options)
  await store.sync(options)
  try {
    for (const [index, [name, check]] of Object.entries(CHECKS).entries()) {
      yield await resultOf(name, options.signal, () => check({ store, folder: `${folder}${index}/`, signal: options.signal }))
    }
  } finally {
    // Also after an abort, and so without its signal.
    yield await resultOf('cleaning up', undefined, () => cleanUp(store, folder))
  }
}

/** Refuses, as UNSUPPORTED, a provider that does not honour put-if-absent: two publishers could overwrite each other. Three small calls. */
export async function requireConditionalPut(store: ObjectStore, options: CallOptions = {}): Promise<void> {
  const key = `${freshFolder()}if-absent`
  try {
    await conditionalPut(store, key, options)
  } finally {
    await store.delete(key, options).catch(leaveBehind)
  }
}

const CHECKS: Readonly<Record<string, Check>> = {
  'put, sync, get': async ({ store, folder, signal }) => {
    const body = randomBytes(10_000)
    await store.put(`${folder}a`, body, { signal })
    await store.sync({ signal })
    expect(equal(await store.get(`${folder}a`, { sizeMax: SIZE_MAX, signal }), body), 'other bytes came back')
    return 'read after write gives the bytes written'
  },

  'empty and largest objects': async ({ store, folder, signal }) => {
    for (const length of [0, CHUNK_BYTES_MAX]) {
      const body = randomBytes(length)
      const target = Buffer.alloc(CHUNK_BYTES_MAX)
      await store.put(`${folder}${length}`, body, { signal })
      await store.sync({ signal })
      const read = await store.getInto(`${folder}${length}`, target, { signal })
      expect(equal(target.subarray(0, read), body), `an object of ${length} bytes came back changed`)
    }
    return `0 and ${CHUNK_BYTES_MAX} bytes`
  },

  overwrite: async ({ store, folder, signal }) => {
    for (const text of ['first', 'second, longer']) {
      await store.put(`${folder}a`, Buffer.from(text), { signal })
      await store.sync({ signal })
      expect(equal(await store.get(`${folder}a`, { sizeMax: SIZE_MAX, signal }), Buffer.from(text)), 'an old version was read')
    }
    return 'the newest version is read at once'
  },

  'missing object': async ({ store, folder, signal }) => {
    expect((await store.head(`${folder}none`, { signal })) === undefined, 'head finds what is not there')
    await mustReject('NOT_FOUND', store.get(`${folder}none`, { sizeMax: SIZE_MAX, signal }))
    return 'is NOT_FOUND'
  },

  delete: async ({ store, folder, signal }) => {
    await store.put(`${folder}a`, Buffer.from('x'), { signal })
    await store.sync({ signal })
    await store.delete(`${folder}a`, { signal })
    await store.delete(`${folder}a`, { signal })
    await mustReject('NOT_FOUND', store.get(`${folder}a`, { sizeMax: SIZE_MAX, signal }))
    expect((await keysOf(store.list(folder, { signal }))).length === 0, 'a deleted object is still listed')
    return 'takes effect at once; deleting nothing is no error'
  },

  'checksum of an upload': async ({ store, folder, signal }) => {
    if (!store.headGivesSha256) return 'not offered by this kind of store'
    await mustReject('CORRUPT', store.put(`${folder}a`, Buffer.from('sent'), { sha256: hash('sha256', 'meant', 'buffer'), signal }))
    expect((await store.head(`${folder}a`, { signal })) === undefined, 'a damaged upload was stored')
    return 'a damaged upload is refused and not stored'
  },

  'checksum of a head': async ({ store, folder, signal }) => {
    const body = randomBytes(1_000)
    await store.put(`${folder}a`, body, { sha256: hash('sha256', body, 'buffer'), signal })
    await store.sync({ signal })
    const head = await store.head(`${folder}a`, { signal })
    expect(head?.sizeBytes === body.length, 'head gives another length')
    if (!store.headGivesSha256) return 'length only'
    expect(
      head?.sha256 !== undefined && equal(head.sha256, hash('sha256', body, 'buffer')),
      'head does not give the SHA-256: chunks would be sent again',
    )
    return 'length and SHA-256'
  },

  'put if absent': async ({ store, folder, signal }) => {
    await conditionalPut(store, `${folder}a`, { signal })
    return 'the second write is refused and the first one kept; equal bytes count as written'
  },

  'put if absent, raced': async ({ store, folder, signal }) => {
    const bodies = Array.from({ length: RACERS }, (_, racer) => Buffer.from(`racer ${racer}`))
    const won = await Promise.all(bodies.map(body => store.putIfAbsent(`${folder}a`, body, { signal })))
    expect(won.filter(Boolean).length === 1, `${won.filter(Boolean).length} of ${RACERS} writers were told that they won`, 'UNSUPPORTED')
    const kept = await store.get(`${folder}a`, { sizeMax: SIZE_MAX, signal })
    expect(equal(kept, bodies[won.indexOf(true)]), 'not the winner was kept', 'UNSUPPORTED')
    return `${RACERS} writers, one winner`
  },

  'keys with special characters': async ({ store, folder, signal }) => {
    const keys = ['a b', 'a%3Ab', 'a+b', 'a=b&c', 'ä𝄞'].map(name => folder + name)
    for (const key of keys) await store.put(key, Buffer.from(key), { signal })
    await store.sync({ signal })
    for (const key of keys)
      expect(equal(await store.get(key, { sizeMax: SIZE_MAX, signal }), Buffer.from(key)), `${key} came back as another`)
    expect(sameList(await keysOf(store.list(folder, { signal })), keys.toSorted(compareKeys)), 'keys are listed changed')
    return 'kept as they are, % too'
  },

  'listing: all, in order, at once': async ({ store, folder, signal }) => {
    const keys = Array.from({ length: LISTED_OBJECTS }, (_, index) => `${folder}${index % 7}/${String(index * 7919).padStart(8, '0')}`)
    await forEachAtOnce(keys, store.concurrency, key => store.put(key, Buffer.from('x'), { signal }))
    await store.sync({ signal })
    const listed = await keysOf(store.list(folder, { signal }))
    expect(listed.length === keys.length, `${listed.length} of ${keys.length} objects are listed`)
    expect(sameList(listed, keys.toSorted(compareKeys)), 'objects are listed out of order')
    const part = await keysOf(store.list(`${folder}3/0`, { signal }))
    expect(part.length > 0 && part.every(key => key.startsWith(`${folder}3/0`)), 'a prefix within a name is not honoured')
    return `${keys.length} objects, over more than one page`
  },

  'listing of folders': async ({ store, folder, signal }) => {
    for (const name of ['b/1', 'b/2', 'a.b/1', 'a/deep/er', 'file']) await store.put(folder + name, Buffer.from('x'), { signal })
    await store.sync({ signal })
    const names: string[] = []
    for await (const name of store.listFolders(folder, { signal })) names.push(name)
    expect(sameList(names, ['a.b', 'a', 'b']), `folders a.b, a, b are listed as ${names.join(', ')}`)
    return 'by delimiter, each once'
  },
}

async function conditionalPut(store: ObjectStore, key: string, options: CallOptions): Promise<void> {
  const first = Buffer.from('first')
  const refuse = 'the provider does not honour put-if-absent (If-None-Match), so writers could overwrite each other'
  expect(await store.putIfAbsent(key, first, options), `${refuse}: it refuses a new object`, 'UNSUPPORTED')
  expect(!(await store.putIfAbsent(key, Buffer.from('second'), options)), refuse, 'UNSUPPORTED')
  expect(equal(await store.get(key, { ...options, sizeMax: SIZE_MAX }), first), refuse, 'UNSUPPORTED')
  expect(await store.putIfAbsent(key, first, options), 'equal bytes are not taken for a repeated attempt', 'UNSUPPORTED')
}

async function resultOf(name: string, signal: AbortSignal | undefined, run: () => Promise<string>): Promise<CheckResult> {
  try {
    return { name, ok: true, detail: await run() }
  } catch (error) {
    signal?.throwIfAborted()
    return { name, ok: false, detail: isThawError(error) ? `${error.code}: ${error.message}` : String(error) }
  }
}

async function cleanUp(store: ObjectStore, folder: string): Promise<string> {
  const keys = await keysOf(store.list(folder))
  await forEachAtOnce(keys, store.concurrency, key => store.delete(key), { keepGoing: true })
  return `${keys.length} objects removed`
}

/** A publisher may be allowed to write but not to delete: the probe stays, a few bytes under a name nobody reads. */
function leaveBehind(error: unknown): void {
  if (!isThawError(error, 'DENIED')) throw error
}

function freshFolder(): string {
  return `check-${randomBytes(8).toString('hex')}/`
}

function expect(condition: boolean, problem: string, code: 'BAD_FORMAT' | 'UNSUPPORTED' = 'BAD_FORMAT'): void {
  if (!condition) throw new ThawError(code, problem)
}

async function mustReject(code: 'NOT_FOUND' | 'CORRUPT', call: Promise<unknown>): Promise<void> {
  const outcome = await call.then(
    () => undefined,
    (error: unknown) => error,
  )
  if (isThawError(outcome, code)) return
  throw outcome ?? new ThawError('BAD_FORMAT', `the call should have failed as ${code}`)
}

async function keysOf(listing: AsyncIterable<ListedObject>): Promise<string[]> {
  const keys: string[] = []
  for await (const { key } of listing) keys.push(key)
  return keys
}

function equal(a: Uint8Array, b: Uint8Array | undefined): boolean {
  return b !== undefined && Buffer.compare(a, b) === 0
}

function sameList(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((item, index) => item === b[index])
}
