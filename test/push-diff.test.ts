/**
 * Pushes of what changed: diff files as VMMs write them, overlays, and both at once, against a plain array of bytes. Diff files lie on this machine's temporary folder, whose file system has to tell holes by
 * pages, as ext4, XFS and tmpfs do.
 */
import { appendFile, mkdir, open, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { DiffFile } from '../src/changes/diff-file.ts'
import { layeredChanges } from '../src/changes/layered.ts'
import { PAGE_BYTES, RANGE_BYTES } from '../src/chunk.ts'
import { type ChangedPages, type ImageChanges, type ImageSource, openStore, type PushResult, type StorePushSpec } from '../src/index.ts'
import { ImageOverlay } from '../src/overlay/image-overlay.ts'
import { overlayChanges } from '../src/overlay/overlay-changes.ts'
import { Overlay } from '../src/overlay.ts'
import { openStoreOver } from '../src/snapshot-store.ts'
import { openObjectStore } from '../src/store/open.ts'
import { codeOf, codeOfAsync } from './code-of.ts'
import { countingStore } from './fault/counting-store.ts'
import { mountTmpfs } from './fault/tmpfs.ts'
import { pieces, randomImage, type SmallStore, smallStore, withPages } from './small-store.ts'

/** 1000 pages, the last of which is short: seven ranges of used and zero pages, the last range partly there. */
const PARENT = randomImage(1000).subarray(0, 1000 * PAGE_BYTES - 96)
/** A page of PARENT in a run of zero pages that lies in no chunk. */
const ZERO_PAGE = 650

type Page = readonly [page: number, fill: number]

async function pushParent(small: SmallStore, image: Uint8Array = PARENT): Promise<string> {
  const { id } = await small.store.push({ layer: 'runtime', images: { memory: { kind: 'disk', stream: pieces(image) } } })
  return id
}

function pushChild(small: SmallStore, parent: string, memory: ImageSource, rest: Partial<StorePushSpec> = {}): Promise<PushResult> {
  return small.store.push({ layer: 'runtime', parent, images: { memory }, ...rest })
}

/** A sparse file of the image's size that holds these pages of `image`. */
async function writeDiff(path: string, image: Uint8Array, pages: Iterable<number>): Promise<string> {
  await using file = await open(path, 'w')
  await file.truncate(image.length)
  for (const page of pages) await file.write(image.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES), 0, undefined, page * PAGE_BYTES)
  return path
}

async function contents(small: SmallStore, ref: string): Promise<Buffer> {
  await using snapshot = await small.store.open(ref)
  const image = snapshot.image('memory')
  return Buffer.from(await image.read(0, image.sizeBytes))
}

/** The child's bytes, read and pulled, are these, and all of it verifies. */
async function expectChild(small: SmallStore, id: string, bytes: Uint8Array): Promise<void> {
  expect(Buffer.compare(await contents(small, id), bytes)).toBe(0)
  expect(await small.store.verify(id)).toMatchObject({ opened: true, bad: [] })
}

/** Changes of an image by hand: `undefined` is a page that became zero. */
function changesOf(sizeBytes: number, stretches: readonly ChangedPages[]): ImageChanges {
  return { sizeBytes, stretches: () => stretches, checkUnchanged: () => undefined }
}

describe('a diff', () => {
  it.each<[string, readonly Page[], own: number]>([
    ['of nothing', [], 0],
    ['of one page', [[5, 1]], 1],
    [
      'of the first and of the last, short page',
      [
        [0, 1],
        [999, 2],
      ],
      2,
    ],
    [
      'of pages on both sides of a range',
      [
        [127, 1],
        [128, 2],
        [129, 3],
      ],
      3,
    ],
    ['of a zero page that has bytes now', [[ZERO_PAGE, 4]], 1],
    [
      'of pages that are zero now',
      [
        [5, 0],
        [300, 0],
      ],
      0,
    ],
    ['of a whole range', Array.from({ length: 128 }, (_, i): Page => [128 + i, 1 + i]), 128],
    ['of a whole range that is zero now', Array.from({ length: 128 }, (_, i): Page => [128 + i, 0]), 0],
    ['of many pages', Array.from({ length: 300 }, (_, i): Page => [i * 3, 1 + (i % 250)]), 300],
  ])('%s', async (_, pages, own) => {
    await using small = await smallStore()
    const image = withPages(PARENT, pages)
    const parent = await pushParent(small)
    const diff = await writeDiff(
      join(small.dir, 'diff'),
      image,
      pages.map(([page]) => page),
    )
    const { id, images, counts } = await pushChild(small, parent, { diff })
    expect(images).toEqual([{ name: 'memory', kind: 'disk', sizeBytes: PARENT.length }])
    expect(counts).toMatchObject({ ownBytes: own * PAGE_BYTES, doneBytes: PARENT.length })
    expect(counts.zeroBytes + counts.inheritedBytes + counts.ownBytes).toBe(1000 * PAGE_BYTES)
    await expectChild(small, id, image)
  })

  it('drops pages that are equal to the parent’s', async () => {
    await using small = await smallStore()
    const parent = await pushParent(small)
    const diff = await writeDiff(
      join(small.dir, 'all'),
      PARENT,
      Array.from({ length: 1000 }, (_, page) => page),
    )
    const { id, counts } = await pushChild(small, parent, { diff })
    expect(counts).toMatchObject({ ownBytes: 0, storedChunks: 0 })
    await expectChild(small, id, PARENT)
    const few = await writeDiff(join(small.dir, 'few'), PARENT, [1, 2, 200, 999])
    expect((await pushChild(small, parent, { diff: few })).counts).toMatchObject({ ownBytes: 0, storedChunks: 0 })
  })

  it('of an image beyond 4 GiB that has next to nothing in it', async () => {
    await using small = await smallStore()
    const sizeBytes = 5 * 2 ** 30 + 50
    const sparse = async (name: string, fills: readonly (readonly [offset: number, fill: number])[]): Promise<string> => {
      await using file = await open(join(small.dir, name), 'w')
      await file.truncate(sizeBytes)
      for (const [offset, fill] of fills) await file.write(Buffer.alloc(PAGE_BYTES, fill), 0, undefined, offset)
      return join(small.dir, name)
    }
    const path = await sparse('parent', [
      [0, 1],
      [2 ** 30, 2],
      [4 * 2 ** 30 + 8 * PAGE_BYTES, 3],
    ])
    const { id: parent } = await small.store.push({ layer: 'os', images: { memory: { path } } })
    const diff = await sparse('diff', [
      [PAGE_BYTES, 4],
      [2 ** 30, 0],
      [4 * 2 ** 30 + 9 * PAGE_BYTES, 5],
    ])
    const { id, counts } = await pushChild(small, parent, { diff })
    expect(counts).toMatchObject({ ownBytes: 2 * PAGE_BYTES, inheritedBytes: 2 * PAGE_BYTES, doneBytes: sizeBytes })
    await using snapshot = await small.store.open(id)
    const fills = [0, PAGE_BYTES, 2 ** 30, 4 * 2 ** 30 + 8 * PAGE_BYTES, 4 * 2 ** 30 + 9 * PAGE_BYTES, 3 * 2 ** 30]
    const read = await Promise.all(fills.map(async offset => (await snapshot.image('memory').read(offset, PAGE_BYTES))[7]))
    expect(read).toEqual([1, 4, 0, 3, 5, 0])
    expect(await small.store.verify(id)).toMatchObject({ bad: [] })
  })

  it('of a child is a child; and what is unknown of its ranges is no hindrance to a push of all of it', async () => {
    await using small = await smallStore()
    const first = withPages(PARENT, [
      [5, 1],
      [130, 2],
      [999, 3],
    ])
    const second = withPages(first, [
      [6, 4],
      [130, 5],
      [400, 0],
    ])
    const third = withPages(second, [
      [7, 6],
      [600, 7],
    ])
    const a = await pushChild(small, await pushParent(small), { diff: await writeDiff(join(small.dir, 'a'), first, [5, 130, 999]) })
    const b = await pushChild(small, a.id, { diff: await writeDiff(join(small.dir, 'b'), second, [6, 130, 400]) })
    await expectChild(small, b.id, second)
    const whole = await pushChild(small, b.id, { stream: pieces(third) })
    expect(whole.counts.ownBytes).toBe(2 * PAGE_BYTES)
    await expectChild(small, whole.id, third)
    const back = await pushChild(small, whole.id, { diff: await writeDiff(join(small.dir, 'c'), PARENT, [5, 6, 7, 130, 400, 600, 999]) })
    await expectChild(small, back.id, PARENT)
  })

  it('reads of the parent only what it compares with', async () => {
    await using small = await smallStore()
    const parent = await pushParent(small)
    const { objects, reads } = countingStore(await openObjectStore(small.url))
    await using store = await openStoreOver(objects, { keyring: small.keyring })
    const chunksRead = (): number => [...reads].filter(([key]) => key.includes('/chunks/')).reduce((sum, [, count]) => sum + count, 0)
    const image = withPages(PARENT, [
      [ZERO_PAGE, 1],
      [200, 2],
      [201, 0],
      [500, 0],
    ])
    const push = async (pages: readonly number[]): Promise<void> => {
      const diff = await writeDiff(join(small.dir, 'diff'), image, pages)
      await store.push({ layer: 'runtime', parent, images: { memory: { diff } } })
    }
    await push([ZERO_PAGE, 201, 500])
    expect(chunksRead()).toBe(0)
    await push([ZERO_PAGE, 200, 201, 500])
    expect(chunksRead()).toBe(1)
  })

  it('stands beside whole images and inherited ones', async () => {
    await using small = await smallStore()
    const images = { memory: { stream: pieces(PARENT) }, rootfs: { stream: pieces(PARENT) }, state: { stream: pieces(PARENT) } }
    const { id: parent } = await small.store.push({ layer: 'runtime', images })
    const image = withPages(PARENT, [[9, 9]])
    const diff = await writeDiff(join(small.dir, 'diff'), image, [9])
    const state = { stream: pieces(Buffer.from('state')) }
    const child = await small.store.push({ layer: 'runtime', parent, inherit: true, images: { memory: { diff }, state } })
    expect(child.images.map(({ name, sizeBytes }) => [name, sizeBytes]).sort()).toEqual([
      ['memory', PARENT.length],
      ['rootfs', PARENT.length],
      ['state', 5],
    ])
    await expectChild(small, child.id, image)
  })

  it('of an empty image', async () => {
    await using small = await smallStore()
    const parent = await pushParent(small, Buffer.alloc(0))
    const { id } = await pushChild(small, parent, { diff: await writeDiff(join(small.dir, 'diff'), Buffer.alloc(0), []) })
    await expectChild(small, id, Buffer.alloc(0))
  })

  it('that is a file without holes is taken as it is', async () => {
    await using small = await smallStore()
    const image = withPages(Buffer.alloc(PARENT.length), [[3, 3]])
    const path = join(small.dir, 'diff')
    await writeFile(path, image)
    const { id } = await pushChild(small, await pushParent(small), { diff: path })
    await expectChild(small, id, image)
  })
})

describe('changes', () => {
  it('of a restore, and what its VMM wrote over pages that were given back', async () => {
    await using small = await smallStore()
    const parent = await pushParent(small)
    const images = [{ name: 'memory', sizeBytes: PARENT.length }]
    await using overlay = await Overlay.create({ dir: join(small.dir, 'overlays'), name: 'r1', images })
    const shared = await overlay.image('memory', { written: false })
    new ImageOverlay(shared).zero(100, 300)
    const written = withPages(PARENT, [
      [99, 1],
      [150, 2],
      [399, 3],
      [400, 4],
    ])
    await using diff = await DiffFile.open(await writeDiff(join(small.dir, 'diff'), written, [99, 150, 399, 400]))
    const { id, counts } = await pushChild(small, parent, { changes: layeredChanges(diff, overlayChanges(shared)) })
    const expected = Buffer.from(written)
    for (let page = 100; page < 399; page++) if (page !== 150) expected.fill(0, page * PAGE_BYTES, (page + 1) * PAGE_BYTES)
    expect(counts.ownBytes).toBe(4 * PAGE_BYTES)
    await expectChild(small, id, expected)
  })

  it('of one restore are in its child, and nowhere else', async () => {
    await using small = await smallStore()
    const parent = await pushParent(small)
    const images = [{ name: 'memory', sizeBytes: PARENT.length }]
    const [a, b] = await Promise.all(['a', 'b'].map(name => Overlay.create({ dir: join(small.dir, 'overlays'), name, images })))
    const written = async (overlay: Overlay, page: number, bytes: Buffer): Promise<ImageChanges> => {
      const shared = await overlay.image('memory', { written: true })
      new ImageOverlay(shared).write(page, bytes)
      return overlayChanges(shared)
    }
    const child = await pushChild(small, parent, { changes: await written(a!, 10, Buffer.alloc(PAGE_BYTES, 1)) })
    const other = await pushChild(small, parent, { changes: await written(b!, 999, Buffer.alloc(PAGE_BYTES - 96, 2)) })
    await expectChild(small, child.id, withPages(PARENT, [[10, 1]]))
    await expectChild(small, other.id, withPages(PARENT, [[999, 2]]))
    await expectChild(small, parent, PARENT)
    for (const overlay of [a!, b!]) await overlay.close()
  })

  it('come back whatever they are (model)', async () => {
    await using small = await smallStore()
    const kinds = fc.constantFrom('hole', 'zero', 'same', 'changed')
    const page = fc.record({ page: fc.nat(419), count: fc.integer({ min: 1, max: 150 }), diff: kinds, freed: fc.boolean() })
    const history = fc.array(fc.array(page, { maxLength: 12 }), { minLength: 1, maxLength: 3 })
    await fc.assert(
      fc.asyncProperty(history, fc.integer({ min: 300 * PAGE_BYTES, max: 420 * PAGE_BYTES }), async (generations, sizeBytes) => {
        let image: Buffer = Buffer.from(PARENT.subarray(0, sizeBytes))
        let parent = await pushParent(small, image)
        for (const [generation, stretches] of generations.entries()) {
          const diffed = new Map<number, Buffer>()
          const freed = new Set<number>()
          for (const { page, count, diff, freed: isFreed } of stretches) {
            for (let at = page; at < Math.min(page + count, Math.ceil(sizeBytes / PAGE_BYTES)); at++) {
              if (isFreed) freed.add(at)
              const old = image.subarray(at * PAGE_BYTES, (at + 1) * PAGE_BYTES)
              if (diff === 'zero') diffed.set(at, Buffer.alloc(old.length))
              if (diff === 'same') diffed.set(at, Buffer.from(old))
              if (diff === 'changed') diffed.set(at, Buffer.alloc(old.length, 1 + ((at + generation) % 250)))
            }
          }
          const next = Buffer.from(image)
          for (const at of freed) next.subarray(at * PAGE_BYTES, (at + 1) * PAGE_BYTES).fill(0)
          for (const [at, bytes] of diffed) bytes.copy(next, at * PAGE_BYTES)
          await using diff = await DiffFile.open(await writeDiff(join(small.dir, 'diff'), next, diffed.keys()))
          const zeroes = [...freed].sort((a, b) => a - b).map(page => ({ kind: 'zero', page, count: 1 }) as const)
          const { id } = await pushChild(small, parent, { changes: layeredChanges(diff, changesOf(sizeBytes, zeroes)) })
          await expectChild(small, id, next)
          image = next
          parent = id
        }
        await using snapshot = await small.store.open(parent)
        await snapshot.pull(join(small.dir, 'out', parent))
        await using pulled = await open(join(small.dir, 'out', parent, 'memory'))
        expect(Buffer.compare(await pulled.readFile(), image)).toBe(0)
      }),
      { numRuns: 15 },
    )
  })

  it.each<[string, readonly ChangedPages[]]>([
    [
      'overlap',
      [
        { kind: 'zero', page: 0, count: 2 },
        { kind: 'zero', page: 1, count: 1 },
      ],
    ],
    [
      'are in no order',
      [
        { kind: 'zero', page: 500, count: 1 },
        { kind: 'zero', page: 1, count: 1 },
      ],
    ],
    ['go beyond the image', [{ kind: 'zero', page: 990, count: 11 }]],
    ['are empty', [{ kind: 'zero', page: 1, count: 0 }]],
  ])('that %s are refused', async (_, stretches) => {
    await using small = await smallStore()
    const parent = await pushParent(small)
    expect(await codeOfAsync(() => pushChild(small, parent, { changes: changesOf(PARENT.length, stretches) }))).toBe('RangeError')
  })

  it('lie over others of the same size only', () => {
    expect(codeOf(() => layeredChanges(changesOf(4096, []), changesOf(8192, [])))).toBe('RangeError')
  })
})

describe('a push of a diff is refused', () => {
  it('without a parent, for an image that it lacks, and for one of another size', async () => {
    await using small = await smallStore()
    const parent = await pushParent(small)
    const diff = await writeDiff(join(small.dir, 'diff'), PARENT, [1])
    const short = await writeDiff(join(small.dir, 'short'), PARENT.subarray(0, RANGE_BYTES), [1])
    const long = await writeDiff(join(small.dir, 'long'), Buffer.concat([PARENT, Buffer.alloc(96)]), [1])
    expect(await codeOfAsync(() => small.store.push({ layer: 'os', images: { memory: { diff } } }))).toBe('RangeError')
    expect(await codeOfAsync(() => small.store.push({ layer: 'runtime', parent, images: { rootfs: { diff } } }))).toBe('RangeError')
    expect(await codeOfAsync(() => pushChild(small, parent, { diff: short }))).toBe('RangeError')
    expect(await codeOfAsync(() => pushChild(small, parent, { diff: long }))).toBe('RangeError')
  })

  it('for what is no file, or not there', async () => {
    await using small = await smallStore()
    const parent = await pushParent(small)
    await mkdir(join(small.dir, 'folder'))
    expect(await codeOfAsync(() => pushChild(small, parent, { diff: join(small.dir, 'folder') }))).toBe('RangeError')
    expect(await codeOfAsync(() => pushChild(small, parent, { diff: '/dev/zero' }))).toBe('RangeError')
    expect(await codeOfAsync(() => pushChild(small, parent, { diff: join(small.dir, 'missing') }))).toBe('NOT_FOUND')
  })

  it('when the file or the overlay changes while it is read', async () => {
    await using small = await smallStore()
    const parent = await pushParent(small)
    const act: Readonly<Record<string, (path: string) => Promise<unknown>>> = {
      grows: path => appendFile(path, 'more'),
      'is cut': path => truncate(path, PAGE_BYTES),
      'is written to': path => writeFile(path, 'x', { flag: 'r+' }),
    }
    for (const [how, change] of Object.entries(act)) {
      const path = await writeDiff(join(small.dir, 'diff'), withPages(PARENT, [[900, 1]]), [900])
      const memory = await DiffFile.open(path)
      // File times have a granularity: a change within the same tick as the writing of the file would not show.
      await new Promise(resolve => setTimeout(resolve, 20))
      await change(path)
      expect(await codeOfAsync(() => pushChild(small, parent, { changes: memory })), how).toBe('CONFLICT')
      await memory.close()
    }
    const images = [{ name: 'memory', sizeBytes: PARENT.length }]
    await using overlay = await Overlay.create({ dir: small.dir, name: 'r1', images })
    const shared = await overlay.image('memory', { written: true })
    const image = new ImageOverlay(shared)
    const changes = overlayChanges(shared)
    const touched: ImageChanges = {
      sizeBytes: changes.sizeBytes,
      *stretches() {
        yield* changes.stretches()
        image.write(1, Buffer.alloc(PAGE_BYTES, 1))
      },
      checkUnchanged: () => changes.checkUnchanged(),
    }
    expect(await codeOfAsync(() => pushChild(small, parent, { changes: touched }))).toBe('CONFLICT')
    expect(await Array.fromAsync(small.store.list())).toHaveLength(1)
  })

  it('when the holes cannot be told by pages', async () => {
    await using small = await smallStore()
    const folder = join(small.dir, 'huge')
    await mkdir(folder)
    using _ = mountTmpfs(folder, 'huge=always')
    const path = await writeDiff(join(folder, 'diff'), PARENT, [1])
    const parent = await pushParent(small)
    expect(await codeOfAsync(() => pushChild(small, parent, { diff: path }))).toBe('UNSUPPORTED')
  })
})

it('a child of a diff is read by a store that was opened anew', async () => {
  await using small = await smallStore()
  const image = withPages(PARENT, [[700, 1]])
  const { id } = await pushChild(small, await pushParent(small), { diff: await writeDiff(join(small.dir, 'diff'), image, [700]) })
  await using store = await openStore(small.url, { keyring: small.keyring })
  await using snapshot = await store.open(id)
  expect(Buffer.compare(await snapshot.image('memory').read(0, image.length), image)).toBe(0)
})
