/**
 * What `src` pushes, the reader written from docs/FORMAT.md alone reads: random images and histories, byte for byte. Each history is one line of
 * descent, up to os → runtime → function, for the platform or for a tenant whose chunks are padded and compressed or not.
 */
import { createHash } from 'node:crypto'
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { PAGE_BYTES } from '../src/chunk.ts'
import { LAYERS, type Layer } from '../src/index.ts'
import { type ReaderKeys, readerKeys } from './fault/second-reader.ts'
import * as second from './reader-from-format/index.ts'
import { pieces, type SmallStore, smallStore } from './small-store.ts'

const IMAGES = ['memory', 'rootfs', 'state'] as const
const KINDS: Readonly<Record<string, string>> = { memory: 'memory', rootfs: 'disk', state: 'blob' }
/** Domains of each kind, by tenant: acme is as any tenant is. */
const DOMAINS = { plain: { compress: false }, tight: { pad: false }, bare: { compress: false, pad: false } } as const
const TENANTS = [undefined, 'acme', ...Object.keys(DOMAINS)]

type Content = 'zero' | 'text' | 'noise'

/** Pages [page, page + count), or as many of them as the image has. */
interface Edit {
  readonly page: number
  readonly count: number
  readonly content: Content
}

interface Step {
  readonly layer: Layer
  readonly tenant: string | undefined
  /** Images that are pushed anew, each with its size, which may differ from before, and what changed. */
  readonly images: ReadonlyMap<string, { readonly sizeBytes: number; readonly edits: readonly Edit[] }>
  readonly inherit: boolean
  readonly label: string
}

const edit: fc.Arbitrary<Edit> = fc.record({
  page: fc.nat(300),
  count: fc.oneof(fc.integer({ min: 1, max: 6 }), fc.integer({ min: 1, max: 200 })),
  content: fc.constantFrom('zero', 'text', 'noise'),
})
const image = fc.record({
  sizeBytes: fc.oneof(fc.nat(320 * PAGE_BYTES), fc.constantFrom(0, 1, PAGE_BYTES, 128 * PAGE_BYTES, 256 * PAGE_BYTES + 1)),
  edits: fc.array(edit, { maxLength: 6 }),
})
const changes = fc.record({
  images: fc.uniqueArray(fc.tuple(fc.constantFrom(...IMAGES), image), { minLength: 1, maxLength: 3, selector: ([name]) => name }),
  inherit: fc.boolean(),
  label: fc.string({ maxLength: 20, unit: 'grapheme-ascii' }),
})
const history: fc.Arbitrary<Step[]> = fc
  .tuple(fc.subarray([...LAYERS], { minLength: 1 }), fc.constantFrom(...TENANTS), fc.array(changes, { minLength: 3, maxLength: 3 }))
  .map(([layers, tenant, steps]) =>
    layers.map((layer, index) => {
      const { images, ...rest } = steps[index]!
      return { layer, tenant: layer === 'function' ? tenant : undefined, images: new Map(images), ...rest }
    }),
  )

let small: SmallStore
let keys: ReaderKeys
let reader: second.Folder
let pushes = 0

beforeAll(async () => {
  small = await smallStore()
  for (const [tenant, options] of Object.entries(DOMAINS)) await small.keyring.createTenant(tenant, options)
  keys = await readerKeys(small.keyring.name)
  reader = second.readFolder(small.url)
})

afterAll(() => small?.[Symbol.asyncDispose]())

// Before the random histories: each is the first chunk of its domain.
it.each([
  ['acme', (bytes: number) => bytes % PAGE_BYTES === 0 && bytes < 8 * PAGE_BYTES],
  ['plain', (bytes: number) => bytes === 9 * PAGE_BYTES],
  ['tight', (bytes: number) => bytes % PAGE_BYTES !== 0 && bytes < 8 * PAGE_BYTES],
  ['bare', (bytes: number) => bytes === 8 * PAGE_BYTES + 5],
])('reads a chunk of 8 pages of tenant %s, as long as its domain says', async (tenant, isAsLong) => {
  const memory = { sizeBytes: 8 * PAGE_BYTES, edits: [{ page: 0, count: 8, content: 'text' }] } as const
  const step: Step = { layer: 'function', tenant, images: new Map([['memory', memory]]), inherit: false, label: '' }
  await pushAndRead(step, undefined, imagesAfter(new Map(), step))
  const { domain } = await small.keyring.sealer('function', tenant)
  const [chunk, ...others] = (await reader.list('roots/')).filter(key => key.includes(`/chunks/${domain}/`))
  expect(others).toEqual([])
  expect((await stat(join(small.url, chunk!))).size).toSatisfy(isAsLong)
})

it('reads every history', async () => {
  await fc.assert(
    fc.asyncProperty(history, async steps => {
      let images = new Map<string, Buffer>()
      let parent: string | undefined
      for (const step of steps) {
        images = imagesAfter(images, step)
        parent = await pushAndRead(step, parent, images)
      }
    }),
    { numRuns: 12 },
  )
})

/** Pushes with `src`, finds the snapshot by its tag with the second reader, and compares. Returns its id. */
async function pushAndRead(step: Step, parent: string | undefined, images: ReadonlyMap<string, Buffer>): Promise<string> {
  const { layer, tenant, label } = step
  const tag = `push/${++pushes}`
  const inherit = step.inherit && parent !== undefined
  const pushed = [...step.images.keys()].map(name => [name, { stream: pieces(images.get(name)!) }] as const)
  const spec = { layer, tenant, parent, tag, inherit, labels: { label }, images: Object.fromEntries(pushed) }
  const { id } = await small.store.push(spec)
  const entry = await second.readTag(reader.files, reader.list, small.store.id, tenant ?? null, tag, keys.publicKeys)
  expect(entry).toMatchObject({ seq: 1, snapshot: id })
  const found = await second.readSnapshot(reader.files, reader.list, id, keys.unwrapKeys)
  expect(found).toMatchObject({ layer: LAYERS.indexOf(layer), tenant: tenant ?? null, parent: parent ?? null, labels: [['label', label]] })
  expect(found.images.map(({ name }) => name).sort()).toEqual([...images.keys()].sort())
  for (const { name, kind, sizeBytes, bytes } of found.images) {
    expect([name, kind, sizeBytes]).toEqual([name, KINDS[name], images.get(name)!.length])
    expect(images.get(name)!.equals(await bytes())).toBe(true)
  }
  return id
}

function imagesAfter(before: ReadonlyMap<string, Buffer>, { images, inherit }: Step): Map<string, Buffer> {
  const after = new Map(inherit ? before : [])
  for (const [name, { sizeBytes, edits }] of images) {
    const bytes = Buffer.alloc(sizeBytes)
    before.get(name)?.copy(bytes)
    after.set(name, edits.reduce(edited, bytes))
  }
  return after
}

function edited(bytes: Buffer, { page, count, content }: Edit): Buffer {
  const target = bytes.subarray(page * PAGE_BYTES, (page + count) * PAGE_BYTES)
  if (content === 'zero') target.fill(0)
  if (content === 'text') target.fill(`page ${page}, ${count} of them; `)
  if (content === 'noise') target.set(createHash('shake256', { outputLength: target.length }).update(`${page} ${count}`).digest())
  return bytes
}
