/**
 * Golden vectors: format version 1 stays what it is (`vectors/README.md`). Both readers, the one in `src` and the one written from docs/FORMAT.md alone,
 * find in these files what was once written, and today's publisher seals the same payloads to the same bytes.
 */
import { createHash } from 'node:crypto'
import { chmod, cp, mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { endsPack, mix64, PAGE_BYTES, RANGE_BYTES } from '../src/chunk.ts'
import { type FileKeyring, fileKeyring, openStore, type SnapshotStore } from '../src/index.ts'
import { decodeWrappedKeys, unwrapDataKey } from '../src/keys/wrapped.ts'
import { decodeColumn } from '../src/manifest/column.ts'
import { decodeRuns, encodeRuns } from '../src/manifest/runs.ts'
import { SealPool } from '../src/seal/pool.ts'
import { encodePayload, OpenedChunk, SEALED_BYTES_MAX, sealPayload } from '../src/seal.ts'
import { readerKeys } from './fault/second-reader.ts'
import * as second from './reader-from-format/index.ts'
import { pieces } from './small-store.ts'

const FOLDER = join(import.meta.dirname, 'vectors')
const RUNS_BYTES_MAX = 1000

interface SealingVectors {
  readonly chunks: readonly ChunkVector[]
  readonly mix64: readonly (readonly [value: string, mixed: string])[]
  readonly packEnds: readonly number[]
  readonly ranges: readonly RangeVector[]
  readonly wrappedKeys: Readonly<Record<'wrappingKeyId' | 'wrappingKey' | 'snapshot' | 'dataKey' | 'document', string>>
  readonly runs: readonly RunsVector[]
}

interface ChunkVector extends Readonly<Record<'name' | 'secret' | 'salt' | 'payload' | 'key' | 'id' | 'pagesSha256', string>> {
  readonly sealedBytes: number
  readonly pages: number
}

interface RangeVector extends Readonly<Record<'pattern' | 'lineageKey' | 'digest', string>> {
  readonly sizeBytes: number
  readonly from: number
}

interface RunsVector extends Readonly<Record<'name' | 'column', string>> {
  readonly chunkPages: readonly number[]
  readonly runs: readonly (readonly [pages: number, chunk: number, first: number])[]
}

interface ExpectedStore {
  readonly store: string
  readonly root: string
  readonly snapshots: readonly ExpectedSnapshot[]
  readonly tags: readonly ExpectedTag[]
  readonly deletedTags: readonly Pick<ExpectedTag, 'tenant' | 'name' | 'seq'>[]
}

interface ExpectedSnapshot {
  readonly id: string
  readonly layer: string
  readonly tenant: string | null
  readonly parent: string | null
  readonly createdAt: string
  readonly labels: readonly (readonly [name: string, value: string])[]
  readonly chunks: number
  readonly images: readonly { readonly name: string; readonly kind: string; readonly sizeBytes: number; readonly sha256: string }[]
}

interface ExpectedTag {
  readonly tenant: string | null
  readonly name: string
  readonly seq: number
  readonly snapshot: string
  readonly root: string
  readonly at: string
}

const hex = (text: string): Buffer => Buffer.from(text, 'hex')
const rawOf = (column: Uint8Array): Buffer => Buffer.from(decodeColumn(column, RUNS_BYTES_MAX))
const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

/** Codec 0: no compressor has a say in these bytes. */
const isRaw = ({ payload }: ChunkVector): boolean => Buffer.from(payload, 'base64')[0] === 0

async function readVectors<T>(name: string): Promise<T> {
  return JSON.parse(await readFile(join(FOLDER, name), 'utf8')) as T
}

const sealing = await readVectors<SealingVectors>('sealing.json')
const expected = await readVectors<ExpectedStore>('expected.json')

it('the files are those that were committed, none more, none less', async () => {
  const listed = (await readFile(join(FOLDER, 'SHA256SUMS'), 'utf8')).trimEnd().split('\n')
  const entries = (await readdir(FOLDER, { recursive: true, withFileTypes: true })).filter(entry => entry.isFile())
  const paths = entries.map(entry => join(entry.parentPath, entry.name)).filter(path => !/(README\.md|SHA256SUMS)$/.test(path))
  const found = await Promise.all(paths.map(async path => `${sha256(await readFile(path))}  ${relative(FOLDER, path)}`))
  expect(found.sort()).toEqual(listed.sort())
})

describe.each(sealing.chunks)('a chunk: $name', vector => {
  const { pages, sealedBytes } = vector
  const payload = Buffer.from(vector.payload, 'base64')
  const [id, key, secret, salt] = [hex(vector.id), hex(vector.key), hex(vector.secret), hex(vector.salt)]

  it('is sealed to the same bytes', async () => {
    const sealed = new Uint8Array(payload.length)
    expect(sealPayload(payload, secret, salt, sealed)).toEqual({ id, key, sizeBytes: sealedBytes })
    const other = await second.sealFromPayload(payload, secret, salt)
    expect(Buffer.from(other.id)).toEqual(id)
    expect(Buffer.from(other.sealed)).toEqual(Buffer.from(sealed))
  })

  it('opens to the same pages', async () => {
    const { sealed } = await second.sealFromPayload(payload, secret, salt)
    const { bytes } = OpenedChunk.open(sealed, { id, key, pages }, Buffer.alloc(RANGE_BYTES))
    expect(sha256(bytes)).toBe(vector.pagesSha256)
    expect(sha256(await second.openChunk(sealed, key, pages))).toBe(vector.pagesSha256)
  })
})

it.each(sealing.chunks.filter(isRaw))('a payload is made: $name', ({ pages, ...vector }) => {
  const payload = Buffer.from(vector.payload, 'base64')
  const raw = payload.subarray(5, 5 + pages * PAGE_BYTES)
  const made = Buffer.alloc(SEALED_BYTES_MAX)
  const madeBytes = encodePayload(raw, pages, { compress: false, pad: payload.length % PAGE_BYTES === 0 }, made)
  expect(made.subarray(0, madeBytes)).toEqual(payload)
})

describe('packs', () => {
  it.each(sealing.mix64)('mix64(%s) = %s', (value, mixed) => {
    for (const mix of [mix64, second.mix64])
      expect(
        mix(BigInt(`0x${value}`))
          .toString(16)
          .padStart(16, '0'),
      ).toBe(mixed)
  })

  it('end behind the same pages', () => {
    const pages = Array.from({ length: 1500 }, (_, page) => page)
    expect(pages.filter(page => endsPack(page, 1))).toEqual(sealing.packEnds)
    expect(pages.filter(page => second.mix64(BigInt(page)) % 128n === 0n)).toEqual(sealing.packEnds)
  })
})

describe.each(sealing.ranges)('a range of $sizeBytes bytes', ({ sizeBytes, pattern, from, ...vector }) => {
  const bytes = Buffer.alloc(sizeBytes).fill(pattern, from)
  const [lineageKey, digest] = [hex(vector.lineageKey), hex(vector.digest)]

  it('has the same digest', async () => {
    await using pool = new SealPool({ slots: 1 })
    const slot = await pool.acquire()
    slot.bytes.set(bytes)
    const result = await pool.run(slot, { kind: 'scan', file: undefined, sizeBytes, lineageKey, layout: 'compare', digest: undefined })
    expect(result.state === 'differs' && Buffer.from(result.digest)).toEqual(digest)
    expect(Buffer.from(await second.rangeDigest(lineageKey, bytes))).toEqual(digest)
  })
})

it('a wrapped key opens', async () => {
  const { document, snapshot, wrappingKeyId, wrappingKey, dataKey } = sealing.wrappedKeys
  const wrapped = decodeWrappedKeys(Buffer.from(document), hex(snapshot), 'the vector').find(({ keyId }) => keyId === wrappingKeyId)
  const opened = unwrapDataKey(wrapped!, hex(snapshot), { id: wrappingKeyId, key: hex(wrappingKey) })
  expect(Buffer.from(opened!)).toEqual(hex(dataKey))
  const other = await second.unwrapDataKey(Buffer.from(document), snapshot, new Map([[wrappingKeyId, hex(wrappingKey)]]))
  expect(Buffer.from(other)).toEqual(hex(dataKey))
})

describe.each(sealing.runs)('runs: $name', ({ chunkPages, runs, ...vector }) => {
  const column = Buffer.from(vector.column, 'base64')
  const pages = runs.reduce((sum, [count]) => sum + count, 0)

  it('are read, and written again', () => {
    const map = decodeRuns(column, runs.length, pages, Uint8Array.from(chunkPages))
    expect([...map.runs()].map(({ count, chunk, first }) => [count, chunk, first])).toEqual(
      runs.map(([count, chunk, first]) => [count, chunk, chunk < 0 ? 0 : first]),
    )
    expect(rawOf(encodeRuns(map))).toEqual(rawOf(column))
  })

  it('are read by the second reader', () => {
    const less1 = Uint8Array.from(chunkPages, count => count - 1)
    const read = second.decodeRuns(column, runs.length, pages, less1, vector.name)
    expect(read.map(({ pages, from }) => [pages, from?.chunk ?? -1, from?.firstPage ?? 0])).toEqual(
      runs.map(([count, chunk, first]) => [count, chunk, chunk < 0 ? 0 : first]),
    )
  })
})

describe('the store', () => {
  let dir: string
  let keyring: FileKeyring
  let store: SnapshotStore

  // On copies: a keyring must be its owner's alone, and a store that is opened may be written to.
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'thaw-vectors-'))
    await cp(join(FOLDER, 'keyring.json'), join(dir, 'keys'))
    await chmod(join(dir, 'keys'), 0o600)
    await cp(join(FOLDER, 'store'), join(dir, 'store'), { recursive: true })
    keyring = await fileKeyring(join(dir, 'keys'))
    store = await openStore(join(dir, 'store'), { keyring })
  })

  afterAll(async () => {
    await store?.close()
    await rm(dir, { recursive: true, force: true })
  })

  it('has its id, and a first root whose id follows from it', async () => {
    expect(store.id).toBe(expected.store)
    expect(sha256(Buffer.from(`thaw-root-1${expected.store}`)).slice(0, 16)).toBe(expected.root)
    const { files, list } = second.readFolder(join(FOLDER, 'store'))
    const { domains, ...document } = await second.readStoreDocument(files)
    expect(document.store).toBe(expected.store)
    expect(domains).toEqual(await keyring.checkValues(expected.store))
    expect(await second.readRoots(files, list)).toMatchObject([{ root: expected.root, state: 'active', stateSeq: 1 }])
  })

  it.each(expected.snapshots)('gives the $layer snapshot', async snapshot => {
    await using found = await store.open(snapshot.id)
    const images = await Promise.all(
      found.images.map(async image => {
        const { name, kind, sizeBytes } = image
        return { name, kind, sizeBytes, sha256: sha256(await image.read(0, sizeBytes)) }
      }),
    )
    const { id, layer, tenant = null, parent = null, createdAt, labels } = found
    const { chunks, bad } = await store.verify(id)
    expect(bad).toEqual([])
    const whole = { id, layer, tenant, parent, createdAt: createdAt.toISOString(), labels: [...labels], chunks, images }
    expect(whole).toEqual(snapshot)
  })

  it.each(expected.snapshots)('gives the $layer snapshot to the second reader', async snapshot => {
    const { files, list } = second.readFolder(join(FOLDER, 'store'))
    const { unwrapKeys } = await readerKeys(join(FOLDER, 'keyring.json'))
    const found = await second.readSnapshot(files, list, snapshot.id, unwrapKeys)
    const images = await Promise.all(
      found.images.map(async ({ name, kind, sizeBytes, bytes }) => ({ name, kind, sizeBytes, sha256: sha256(await bytes()) })),
    )
    const { tenant, parent, labels, chunkCount: chunks } = found
    const layer = ['os', 'runtime', 'function'][found.layer]
    const whole = { id: snapshot.id, layer, tenant, parent, createdAt: new Date(found.createdAt).toISOString(), labels, chunks, images }
    expect(whole).toEqual(snapshot)
  })

  it('has its tags, signed', async () => {
    const tags = (await Array.fromAsync(store.tags())).map(tag => ({ ...tag, tenant: tag.tenant ?? null }))
    expect(tags).toEqual(expected.tags)
    const { files, list } = second.readFolder(join(FOLDER, 'store'))
    const { publicKeys } = await readerKeys(join(FOLDER, 'keyring.json'))
    const read = (tenant: string | null, name: string) => second.readTag(files, list, expected.store, tenant, name, publicKeys)
    for (const { tenant, name, ...entry } of expected.tags) expect(await read(tenant, name)).toMatchObject(entry)
    for (const { tenant, name, seq } of expected.deletedTags) expect(await read(tenant, name)).toMatchObject({ seq, snapshot: null })
  })

  it('is extended by a publisher of today, who finds nothing changed', async () => {
    const { id, layer } = expected.snapshots[0]!
    await using parent = await store.open(id)
    const image = parent.image('memory')
    const images = { memory: { stream: pieces(Buffer.from(await image.read(0, image.sizeBytes))) } }
    const { counts } = await store.push({ layer: layer as 'os', parent: id, inherit: true, images })
    expect(counts).toMatchObject({ ownBytes: 0, storedChunks: 0, foundChunks: 0, doneBytes: image.sizeBytes })
    expect(counts.inheritedBytes).toBeGreaterThan(0)
  })
})
