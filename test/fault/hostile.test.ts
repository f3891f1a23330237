/**
 * A store in hostile hands, through the public API: manifests that someone with a data key forged, objects exchanged for other valid ones, tags moved and rolled
 * back; and honest hands that collide. The decoders have tests of their own: what is new here is everything between them and the caller.
 */
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createFileKeyring, initStore, openStore, type PushResult, type SnapshotStore } from '../../src/index.ts'
import { encodeWrappedKeys } from '../../src/keys/wrapped.ts'
import { manifestKey, rootKey, tagKey, wrappedKeysKey } from '../../src/layout.ts'
import type { TagName } from '../../src/names.ts'
import { codeOfAsync } from '../code-of.ts'
import { pieces, randomImage, smallStore } from '../small-store.ts'
import { column, type Fields, frame, hole, honestFields, honestImage, PAGES, partsOf, plant, varint, zeroColumn } from './forge.ts'
import { allObjects, bytesOf, type InMemory, inMemory, openOver, storeOf } from './memory-store.ts'

const GIB = 2 ** 30
/** What a bomb that goes off would far exceed. */
const GROWTH_BYTES_MAX = GIB / 4
/** Read of an image in fuzzing, which may say it has a terabyte. */
const READ_BYTES_MAX = 64 * 1024

let memory: InMemory
let honest: Fields

beforeAll(async () => {
  memory = await inMemory()
  honest = await honestFields(memory)
})
afterAll(() => memory[Symbol.asyncDispose]())

const withClear = (key: number, value: unknown): Fields => ({ ...honest, clear: new Map(honest.clear).set(key, value) })
const withSealed = (key: number, value: unknown): Fields => ({ ...honest, sealed: new Map(honest.sealed).set(key, value) })
/** An image with some of its items exchanged. */
const withImage = (items: Readonly<Record<number, unknown>>): Fields => withSealed(7, [Object.assign(honestImage(), items)])

/** What opening it, inspecting it, verifying it and listing it comes to, if all of them agree. */
async function outcome(manifest: Uint8Array): Promise<unknown> {
  const id = await plant(memory, manifest)
  const store = await openOver(memory.objects, memory.keyring)
  const codes = [
    await codeOfAsync(() => store.open(id)),
    await codeOfAsync(() => store.inspect(id)),
    await codeOfAsync(() => store.verify(id)),
    await codeOfAsync(() => Array.fromAsync(store.list())),
  ]
  await memory.objects.delete(manifestKey(memory.root, id))
  return new Set(codes).size === 1 ? codes[0] : codes
}

async function read(store: SnapshotStore, ref: string): Promise<Buffer> {
  await using snapshot = await store.open(ref)
  const image = snapshot.image('memory')
  return Buffer.from(await image.read(0, image.sizeBytes))
}

describe('a forged manifest', () => {
  it('opens if it is like an honest one', async () => {
    expect(await outcome(frame(partsOf(honest)))).toBeUndefined()
    const id = await plant(memory, frame(partsOf(honest)))
    expect((await read(memory.store, id)).equals(PAGES)).toBe(true)
  })

  it.each<[string, () => Fields]>([
    ['lengths that decompress to a gigabyte', () => withClear(7, zeroColumn(5, GIB))],
    ['lengths that claim four gigabytes', () => withClear(7, zeroColumn(2 ** 32 - 1, GIB))],
    ['page counts that decompress to a gigabyte', () => withSealed(6, zeroColumn(1, GIB))],
    ['runs that decompress to a gigabyte', () => withImage({ 4: zeroColumn(15, GIB) })],
    ['as many runs as there may be, in a bomb', () => withImage({ 3: 2 ** 23, 4: zeroColumn(15 * 2 ** 23, GIB) })],
    ['range states that decompress to a gigabyte', () => withImage({ 5: zeroColumn(1, GIB) })],
    ['states of a terabyte, in a bomb', () => withSealed(7, [hole('memory', 2 ** 28, zeroColumn(2 ** 21, GIB))])],
  ])('is not decompressed beyond its bounds: %s', async (_, fields) => {
    const manifest = frame(partsOf(fields()))
    expect(await growthBytes(async () => expect(await outcome(manifest)).toBe('BAD_FORMAT'))).toBeLessThan(GROWTH_BYTES_MAX)
  })

  it.each<[string, () => Fields]>([
    ['a million chunks that are not there', () => withClear(5, [[Buffer.alloc(0), 0, '0123456789abcdef', 2 ** 20]])],
    ['a domain that climbs out of its folder', () => withClear(5, [[Buffer.alloc(0), 0, '../../../../0123', 1]])],
    ['a chunk larger than any', () => withClear(7, column(varint(528_385)))],
    ['the tenant of another folder', () => withSealed(1, '../acme')],
    ['a label with a newline', () => withSealed(3, [['a', 'b\nc']])],
    ['an image that climbs out of its folder', () => withImage({ 0: '../../etc/passwd' })],
    ['an image without a name', () => withImage({ 0: '' })],
    ['a name twice', () => withSealed(7, [honestImage(), honestImage()])],
    ['an image of more than a terabyte', () => withImage({ 2: 2 ** 40 + 1 })],
    ['an image of nine petabytes', () => withImage({ 2: Number.MAX_SAFE_INTEGER })],
    ['a longer image than its runs', () => withImage({ 2: PAGES.length + 1 })],
    ['a shorter image than its runs', () => withImage({ 2: PAGES.length - 4096 })],
    ['more runs than there may be', () => withImage({ 3: 2 ** 23 + 1 })],
    ['runs that are not there', () => withImage({ 3: 2 ** 23 })],
    ['a run of a chunk that is not there', () => withImage({ 4: column([5, 3, 0]) })],
    ['a run beyond the end of its chunk', () => withImage({ 4: column([3, 3, 2]) })],
    ['a chunk of no pages', () => withSealed(6, column([255]))],
    ['a digest too many', () => withImage({ 6: Buffer.alloc(16) })],
  ])('is refused with %s', async (_, fields) => {
    expect(await outcome(frame(partsOf(fields())))).toBe('BAD_FORMAT')
  })

  it('is refused cut short anywhere, with a good tag or without', async () => {
    const parts = partsOf(honest)
    const whole = frame(parts)
    for (let end = 0; end < whole.length; end += 3) expect(await outcome(whole.subarray(0, end))).toBe('BAD_FORMAT')
    for (let end = 0; end < parts.clear.length; end += 3) {
      expect(await outcome(frame({ ...parts, clear: parts.clear.subarray(0, end) }))).toBe('BAD_FORMAT')
    }
    for (let end = 0; end < parts.sealed.length; end += 3) {
      const codes = await outcome(frame({ ...parts, sealed: parts.sealed.subarray(0, end) }))
      expect(codes).toBe('BAD_FORMAT')
    }
  })

  it.each<[string, () => Fields, string]>([
    ['fewer pages than the chunk has', () => ({ ...withSealed(6, column([2])), ...withPages(3) }), 'BAD_FORMAT'],
    ['another length of the chunk', () => withClear(7, column(varint(16_388))), 'CORRUPT'],
    ['a chunk that does not exist', () => withClear(6, Buffer.alloc(32, 1)), 'NOT_FOUND'],
  ])('opens with %s, and its bytes are refused', async (_, fields, code) => {
    const id = await plant(memory, frame(partsOf(fields())))
    const store = await openOver(memory.objects, memory.keyring)
    expect(await codeOfAsync(() => read(store, id))).toBe(code)
    expect((await store.verify(id)).bad.map(bad => bad.code)).toEqual([code])
    await using snapshot = await store.open(id)
    expect(await codeOfAsync(() => snapshot.pull(join(memory.dir, 'out')))).toBe(code)
  })

  it('with any bytes changed opens or is refused, and so is what it says of its images', { timeout: 120_000 }, async () => {
    const parts = partsOf(honest)
    const change = fc.record({
      part: fc.constantFrom('clear' as const, 'sealed' as const),
      at: fc.nat(Math.max(parts.clear.length, parts.sealed.length)),
      gone: fc.nat(4),
      bytes: fc.uint8Array({ maxLength: 6 }),
    })
    const seen = new Set<string | undefined>()
    await fc.assert(
      fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 3 }), async changes => {
        const changed = { ...parts }
        for (const { part, at, gone, bytes } of changes) {
          const old = changed[part]
          changed[part] = Buffer.concat([old.subarray(0, at), bytes, old.subarray(at + gone)])
        }
        const id = await plant(memory, frame(changed))
        seen.add(await codeOfAsync(() => readEnds(id)))
        await memory.objects.delete(manifestKey(memory.root, id))
      }),
      { numRuns: 2_000 },
    )
    expect([...seen].filter(code => !['CORRUPT', 'NOT_FOUND'].includes(code ?? '')).sort()).toEqual(['BAD_FORMAT', undefined])
  })
})

/** By how much this process was larger at its largest, while it did some work, than before. */
async function growthBytes(work: () => Promise<void>): Promise<number> {
  const before = process.memoryUsage.rss()
  // Makes the kernel forget the peak so far (proc_pid_clear_refs(5)).
  await writeFile('/proc/self/clear_refs', '5')
  await work()
  const peak = /VmHWM:\s+(\d+) kB/.exec(await readFile('/proc/self/status', 'utf8'))
  return Number(peak?.[1]) * 1024 - before
}

/** A manifest's image that has only the first pages of its chunk. */
function withPages(pages: number): Pick<Fields, 'sealed'> {
  const sealed = new Map(honest.sealed).set(6, column([pages - 1]))
  return { sealed: sealed.set(7, [Object.assign(honestImage(), { 2: pages * 4096, 4: column([3, pages - 1, 0]) })]) }
}

/** Reads the start and the end of every image. */
async function readEnds(id: string): Promise<void> {
  await using snapshot = await memory.store.open(id)
  for (const image of snapshot.images) {
    await image.read(0, READ_BYTES_MAX)
    await image.read(Math.max(0, image.sizeBytes - READ_BYTES_MAX), READ_BYTES_MAX)
  }
}

describe('a valid object in the place of another', () => {
  let a: PushResult
  let b: PushResult
  let original: Map<string, Buffer>

  beforeAll(async () => {
    a = await push(randomImage(10))
    b = await push(randomImage(10))
    await memory.store.tag(a.id, tagOf('a'))
    await memory.store.tag(b.id, tagOf('b'))
    original = await allObjects(memory.objects)
  })

  function push(image: Uint8Array): Promise<PushResult> {
    return memory.store.push({ layer: 'os', images: { memory: { stream: pieces(image) } } })
  }

  /** What a fresh reader of `ref` meets while `key` holds the object of another key, or other bytes, or none. */
  async function met(ref: string, key: string, other: string | Uint8Array | undefined): Promise<(string | undefined)[]> {
    const bytes = typeof other === 'string' ? original.get(other)! : other
    await (bytes === undefined ? memory.objects.delete(key) : memory.objects.put(key, bytes))
    try {
      const readCode = await codeOfAsync(async () => read(await openOver(memory.objects, memory.keyring), ref))
      let found: string | undefined
      const verifyCode = await codeOfAsync(async () => {
        found = (await (await openOver(memory.objects, memory.keyring)).verify(ref)).bad[0]?.code
      })
      return [readCode, verifyCode ?? found]
    } finally {
      const before = original.get(key)
      await (before === undefined ? memory.objects.delete(key) : memory.objects.put(key, before))
    }
  }

  it('a manifest: CORRUPT', async () => {
    expect(await met(a.id, manifestKey(a.root, a.id), manifestKey(b.root, b.id))).toEqual(['CORRUPT', 'CORRUPT'])
  })

  it('a chunk, of the same length: CORRUPT', async () => {
    const sealer = await memory.keyring.sealer('os', undefined)
    const chunks = [...original.keys()].filter(key => key.includes(`/chunks/${sealer.domain}/`))
    expect(chunks.map(key => original.get(key)!.length)).toEqual([original.get(chunks[0]!)!.length, original.get(chunks[1]!)!.length])
    for (const ref of [a.id, b.id]) expect(await chunkMet(ref, chunks)).toEqual(['CORRUPT', 'CORRUPT'])
  })

  /** Each of two chunks in the place of the other: one of them is of the snapshot. */
  async function chunkMet(ref: string, [one, other]: string[]): Promise<(string | undefined)[]> {
    const seen = [await met(ref, one!, other), await met(ref, other!, one)]
    return seen.find(codes => codes.some(code => code !== undefined)) ?? []
  }

  it('wrapped keys, of another snapshot or relabelled as of this one: CORRUPT, WRONG_KEY', async () => {
    const key = wrappedKeysKey(a.root, a.id)
    expect(await met(a.id, key, wrappedKeysKey(b.root, b.id))).toEqual(['CORRUPT', 'CORRUPT'])
    const wrapped = await memory.keyring.wrap(Buffer.alloc(32), Buffer.from(b.id, 'hex'), undefined)
    // The verification goes on without the keys, and says so.
    expect(await met(a.id, key, encodeWrappedKeys(Buffer.from(a.id, 'hex'), [wrapped]))).toEqual(['WRONG_KEY', undefined])
    const other = await memory.keyring.wrap(Buffer.alloc(32, 9), Buffer.from(a.id, 'hex'), undefined)
    expect(await met(a.id, key, encodeWrappedKeys(Buffer.from(a.id, 'hex'), [other]))).toEqual(['WRONG_KEY', undefined])
  })

  it('a tag entry, of another name, tenant, number or store: CORRUPT', async () => {
    const entry = tagKey(tagOf('a'), 1)
    const stranger = await storeOf(memory.keyring)
    const { id } = await stranger.store.push({ layer: 'os', images: { memory: { stream: pieces(PAGES) } } })
    await stranger.store.tag(id, tagOf('a'))
    const places: [string, string, string | Uint8Array][] = [
      ['a', entry, tagKey(tagOf('b'), 1)],
      ['fresh', tagKey(tagOf('fresh'), 1), entry],
      ['acme//a', tagKey(tagOf('a', 'acme'), 1), entry],
      ['a', tagKey(tagOf('a'), 2), entry],
      ['a', entry, await bytesOf(stranger.objects, entry)],
    ]
    for (const [ref, key, other] of places) expect(await met(ref, key, other)).toEqual(['CORRUPT', 'CORRUPT'])
  })

  it('none in the place of a root: NOT_FOUND, and the root is not made anew', async () => {
    expect(await met(a.id, rootKey(a.root), undefined)).toEqual(['NOT_FOUND', 'NOT_FOUND'])
  })

  it('an older tag entry than the process has seen: CORRUPT', async () => {
    const tag = tagOf('moving')
    await memory.store.tag(a.id, tag)
    await memory.store.tag(b.id, tag)
    const newest = tagKey(tag, 2)
    const bytes = await bytesOf(memory.objects, newest)
    await memory.objects.delete(newest)
    expect(await codeOfAsync(() => memory.store.resolve('moving'))).toBe('CORRUPT')
    expect(await codeOfAsync(() => memory.store.tag(a.id, tag))).toBe('CORRUPT')
    await memory.objects.put(newest, bytes)
    expect(await memory.store.resolve('moving')).toMatchObject({ id: b.id })
  })
})

describe('two at once', () => {
  it('move a tag: one wins, the other is told', async () => {
    await using small = await smallStore()
    await using other = await openStore(small.url, { keyring: small.keyring })
    const ids: string[] = []
    for (const byte of [1, 2, 3]) {
      const pushed = await small.store.push({ layer: 'os', images: { memory: { stream: pieces(Buffer.alloc(5_000, byte)) } } })
      ids.push(pushed.id)
    }
    const tag = tagOf('python:3.11')
    let now = ids[0]!
    await small.store.tag(now, tag)
    for (let round = 0; round < 20; round++) {
      const [mine, theirs] = ids.filter(id => id !== now) as [string, string]
      const codes = await Promise.all([
        codeOfAsync(() => small.store.tag(mine, tag, { expect: now })),
        codeOfAsync(() => other.tag(theirs, tag, { expect: now })),
      ])
      expect(new Set(codes)).toEqual(new Set([undefined, 'CONFLICT']))
      now = codes[0] === undefined ? mine : theirs
      for (const store of [small.store, other]) expect(await store.resolve(tag.name)).toMatchObject({ id: now })
    }
  })

  it('make a tag: one wins, the other is told', async () => {
    await using small = await smallStore()
    await using other = await openStore(small.url, { keyring: small.keyring })
    const { id } = await small.store.push({ layer: 'os', images: { memory: { stream: pieces(PAGES) } } })
    for (let round = 0; round < 10; round++) {
      const tags = [small.store, other].map(store => codeOfAsync(() => store.tag(id, tagOf(`new-${round}`), { ifAbsent: true })))
      expect(new Set(await Promise.all(tags))).toEqual(new Set([undefined, 'CONFLICT']))
    }
  })

  it('make a store: one does, the other finds it, unless its keyring is another', async () => {
    await using small = await smallStore()
    expect(await initStore(small.url, { keyring: small.keyring })).toMatchObject({ created: false, store: small.store.id })
    const keyring = await createFileKeyring(join(small.dir, 'other-keys'))
    expect(await codeOfAsync(() => initStore(small.url, { keyring }))).toBe('WRONG_KEY')
    expect(await codeOfAsync(() => openStore(small.url, { keyring }))).toBe('WRONG_KEY')
    const url = join(small.dir, 'contested')
    const codes = await Promise.all([small.keyring, keyring].map(each => codeOfAsync(() => initStore(url, { keyring: each }))))
    expect(new Set(codes)).toEqual(new Set([undefined, 'WRONG_KEY']))
  })
})

function tagOf(name: string, tenant?: string): TagName {
  return { tenant, name }
}
