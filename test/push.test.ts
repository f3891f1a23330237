import { hash } from 'node:crypto'
import { appendFile, chmod, mkdir, open, readdir, readFile, stat, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { PAGE_BYTES, RANGE_BYTES } from '../src/chunk.ts'
import { openStore, type PushResult, type PushSpec } from '../src/index.ts'
import { codeOfAsync } from './code-of.ts'
import { pieces, randomImage, type SmallStore, smallStore, withPages } from './small-store.ts'

const IMAGE = randomImage(1000)

function pushBytes(
  small: SmallStore,
  layer: PushSpec['layer'],
  image: Uint8Array,
  rest: Partial<PushSpec> & { parent?: string } = {},
): Promise<PushResult> {
  return small.store.push({ layer, images: { memory: { stream: pieces(image) } }, ...rest })
}

async function contents(small: SmallStore, ref: string, name = 'memory'): Promise<Buffer> {
  await using snapshot = await small.store.open(ref)
  const image = snapshot.image(name)
  return Buffer.from(await image.read(0, image.sizeBytes))
}

describe('any image', () => {
  it.each([0, 1, PAGE_BYTES - 1, PAGE_BYTES, RANGE_BYTES - 1, RANGE_BYTES, RANGE_BYTES + 1, 3 * RANGE_BYTES + 5 * PAGE_BYTES + 7])(
    'of %i bytes comes back',
    async size => {
      await using small = await smallStore()
      const image = IMAGE.subarray(0, size)
      const path = join(small.dir, 'image')
      await writeFile(path, image)
      const { id, images } = await small.store.push({ layer: 'os', images: { file: { path: path }, stream: { stream: pieces(image) } } })
      expect(images.map(({ sizeBytes }) => sizeBytes)).toEqual([size, size])
      for (const name of ['file', 'stream']) expect(Buffer.compare(await contents(small, id, name), image)).toBe(0)
    },
  )

  it('keeps its holes, and costs only what is in it', async () => {
    await using small = await smallStore()
    const path = join(small.dir, 'sparse')
    const file = await open(path, 'w')
    await file.truncate(5 * 2 ** 30 + 123)
    await file.write(IMAGE.subarray(0, 9 * PAGE_BYTES), 0, undefined, 3 * 2 ** 30)
    await file.close()
    const { id, counts } = await small.store.push({ layer: 'os', images: { memory: { path: path } } })
    expect(counts.ownBytes).toBeLessThanOrEqual(9 * PAGE_BYTES)
    await using snapshot = await small.store.open(id)
    const pulled = await snapshot.pull(join(small.dir, 'out'))
    const { size, blocks } = await stat(pulled.images[0]!.path)
    expect(size).toBe(5 * 2 ** 30 + 123)
    expect(blocks * 512).toBeLessThanOrEqual(64 * PAGE_BYTES)
    const start = await snapshot.image('memory').read(3 * 2 ** 30, 9 * PAGE_BYTES)
    expect(Buffer.compare(start, IMAGE.subarray(0, 9 * PAGE_BYTES))).toBe(0)
  })

  it('reads the same in any pieces, to its end and not beyond', async () => {
    await using small = await smallStore()
    const { id } = await pushBytes(small, 'os', IMAGE)
    await using snapshot = await small.store.open(id)
    const image = snapshot.image('memory')
    await fc.assert(
      fc.asyncProperty(fc.nat(IMAGE.length + 100), fc.nat(3 * PAGE_BYTES), async (offset, length) => {
        const bytes = await image.read(offset, length)
        expect(Buffer.compare(bytes, IMAGE.subarray(offset, offset + length))).toBe(0)
      }),
    )
  })
})

describe('layers', () => {
  it('store about the pages that changed, and read nothing of what did not', async () => {
    await using small = await smallStore()
    const os = await pushBytes(small, 'os', IMAGE)
    const changed = withPages(
      IMAGE,
      [5, 6, 7, 300, 301, 999].map(page => [page, page % 251]),
    )
    const runtime = await pushBytes(small, 'runtime', changed, { parent: os.id })
    expect(runtime.counts.ownBytes).toBe(6 * PAGE_BYTES)
    expect(Buffer.compare(await contents(small, runtime.id), changed)).toBe(0)
    const again = await pushBytes(small, 'function', changed, { parent: runtime.id })
    expect(again.counts).toMatchObject({ ownBytes: 0, storedChunks: 0 })
    expect(Buffer.compare(await contents(small, again.id), changed)).toBe(0)
  })

  it('let images grow, shrink, come, go and be inherited', async () => {
    await using small = await smallStore()
    const { store } = small
    const os = await store.push({ layer: 'os', images: { memory: { stream: pieces(IMAGE) }, rootfs: { stream: pieces(IMAGE) } } })
    const grown = Buffer.concat([IMAGE, randomImage(200), Buffer.alloc(5, 1)])
    const shrunk = IMAGE.subarray(0, 10 * PAGE_BYTES + 17)
    const child = await store.push({
      layer: 'os',
      parent: os.id,
      images: { memory: { stream: pieces(grown) }, rootfs: { stream: pieces(shrunk) } },
    })
    expect(Buffer.compare(await contents(small, child.id), grown)).toBe(0)
    expect(Buffer.compare(await contents(small, child.id, 'rootfs'), shrunk)).toBe(0)
    const heir = await store.push({ layer: 'runtime', parent: child.id, inherit: true, images: { state: { stream: pieces(shrunk) } } })
    expect(heir.images.map(({ name }) => name).sort()).toEqual(['memory', 'rootfs', 'state'])
    expect(Buffer.compare(await contents(small, heir.id), grown)).toBe(0)
    const alone = await store.push({ layer: 'runtime', parent: child.id, images: { state: { stream: pieces(shrunk) } } })
    expect(alone.images.map(({ name }) => name)).toEqual(['state'])
  })

  it('of any history come back (model)', async () => {
    await using small = await smallStore()
    const change = fc.record({
      pages: fc.array(fc.tuple(fc.nat(420), fc.nat(3)), { maxLength: 60 }),
      size: fc.integer({ min: 0, max: 420 * PAGE_BYTES }),
    })
    await fc.assert(
      fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 5 }), async history => {
        let parent: string | undefined
        let image: Buffer = Buffer.from(IMAGE.subarray(0, 300 * PAGE_BYTES))
        for (const { pages, size } of history) {
          const next = Buffer.alloc(size)
          image.copy(next)
          image = withPages(next, pages)
          const { id } = await pushBytes(small, 'runtime', image, parent === undefined ? {} : { parent })
          expect(Buffer.compare(await contents(small, id), image)).toBe(0)
          parent = id
        }
        const report = await small.store.verify(parent!)
        expect(report).toMatchObject({ opened: true, bad: [] })
      }),
      { numRuns: 25 },
    )
  })

  it('repack chunks of which little is left', async () => {
    await using small = await smallStore()
    const full = withPages(Buffer.alloc(256 * PAGE_BYTES, 7), [[200, 9]])
    const os = await pushBytes(small, 'os', full)
    const changed = withPages(
      full,
      Array.from({ length: 120 }, (_, page) => [page, 100 + page] as const),
    )
    const child = await pushBytes(small, 'runtime', changed, { parent: os.id })
    expect(child.counts.ownBytes).toBe(128 * PAGE_BYTES)
    expect(Buffer.compare(await contents(small, child.id), changed)).toBe(0)
    expect((await small.store.inspect(child.id)).details!.images[0]!.sharedBytes).toBe(128 * PAGE_BYTES)
  })

  it('share between versions of a function, but never between tenants', async () => {
    await using small = await smallStore()
    const os = await pushBytes(small, 'os', IMAGE)
    const dirty = Array.from({ length: 500 }, (_, i) => [i * 2, 1 + (i % 250)] as const)
    const image = withPages(IMAGE, dirty)
    const first = await pushBytes(small, 'function', image, { parent: os.id, tenant: 'acme' })
    const second = await pushBytes(
      small,
      'function',
      withPages(image, [
        [501, 9],
        [777, 9],
      ]),
      { parent: os.id, tenant: 'acme' },
    )
    expect(second.counts.foundBytes).toBeGreaterThan(0.4 * first.counts.storedBytes)
    const other = await pushBytes(small, 'function', image, { parent: os.id, tenant: 'beta' })
    expect(other.counts).toMatchObject({ foundChunks: 0, storedBytes: first.counts.storedBytes })
    const same = await pushBytes(small, 'os', IMAGE)
    expect(same.counts).toMatchObject({ storedChunks: 0, foundBytes: os.counts.storedBytes })
  })
})

describe('a push is refused', () => {
  it.each<[string, Partial<PushSpec> & { parent?: string; tag?: string }, string]>([
    ['for an unknown layer', { layer: 'kernel' as PushSpec['layer'] }, 'RangeError'],
    ['for a name with ..', { images: { '../x': { stream: pieces(IMAGE) } } }, 'RangeError'],
    ['for a name with a newline', { images: { 'a\nb': { stream: pieces(IMAGE) } } }, 'RangeError'],
    ['without an image', { images: {} }, 'RangeError'],
    ['for a label with control characters', { labels: { a: '\u0007' } }, 'RangeError'],
    ['for inherit without a parent', { inherit: true }, 'RangeError'],
    ['for a parent that does not exist', { parent: 'ab'.repeat(32) }, 'NOT_FOUND'],
    ['for a parent tag that does not exist', { parent: 'nothing:1' }, 'NOT_FOUND'],
    ['for an unknown tenant', { layer: 'function', tenant: 'nobody' }, 'WRONG_KEY'],
    ['for a file that does not exist', { images: { memory: { path: '/nonexistent/file' } } }, 'NOT_FOUND'],
  ])('%s', async (_, spec, code) => {
    await using small = await smallStore()
    expect(await codeOfAsync(() => small.store.push({ layer: 'os', images: { memory: { stream: pieces(IMAGE) } }, ...spec }))).toBe(code)
    expect(await manifests(small)).toEqual([])
  })

  it('for a folder', async () => {
    await using small = await smallStore()
    const path = join(small.dir, 'folder')
    await mkdir(path)
    expect(await codeOfAsync(() => small.store.push({ layer: 'os', images: { memory: { path: path } } }))).toBe('RangeError')
  })

  it('for a parent of a higher layer, or of another tenant', async () => {
    await using small = await smallStore()
    const fn = await pushBytes(small, 'function', IMAGE, { tenant: 'acme' })
    expect(await codeOfAsync(() => pushBytes(small, 'os', IMAGE, { parent: fn.id }))).toBe('RangeError')
    expect(await codeOfAsync(() => pushBytes(small, 'function', IMAGE, { parent: fn.id, tenant: 'beta' }))).toBe('DENIED')
    expect(await codeOfAsync(() => pushBytes(small, 'function', IMAGE, { parent: fn.id, tenant: 'acme' }))).toBeUndefined()
  })

  it('when the file changes while it is read', async () => {
    await using small = await smallStore()
    const change: Readonly<Record<string, (path: string) => Promise<unknown>>> = {
      grows: path => appendFile(path, 'more'),
      shrinks: path => truncate(path, PAGE_BYTES),
      'is written to': path => writeFile(path, 'x', { flag: 'r+' }),
    }
    for (const [how, act] of Object.entries(change)) {
      const path = join(small.dir, `image that ${how}`)
      await writeFile(path, IMAGE)
      const spec: PushSpec = { layer: 'os', images: { memory: { path: path }, slow: { stream: changing(act, path) } } }
      expect(
        await codeOfAsync(() => small.store.push({ ...spec, images: { slow: spec.images.slow!, memory: spec.images.memory! } })),
        how,
      ).toBe('CONFLICT')
    }
    expect(await manifests(small)).toEqual([])
  })

  it('when the file ends before its time, with the name of the image', async () => {
    await using small = await smallStore()
    const path = join(small.dir, 'image')
    await writeFile(path, IMAGE)
    const slow = changing(() => truncate(path, PAGE_BYTES), path)
    const push = small.store.push({ layer: 'os', images: { slow: { stream: slow }, memory: { path } } })
    await expect(push).rejects.toMatchObject({ code: 'CONFLICT', object: 'memory' })
  })

  it('when it is cancelled, for the reason given', async () => {
    await using small = await smallStore()
    const controller = new AbortController()
    async function* endless(): AsyncGenerator<Uint8Array> {
      for (let i = 0; ; i++) {
        if (i === 20) controller.abort(new Error('enough'))
        yield randomImage(100)
      }
    }
    const push = small.store.push({ layer: 'os', images: { memory: { stream: endless() } } }, { signal: controller.signal })
    await expect(push).rejects.toThrow('enough')
    expect(await manifests(small)).toEqual([])
    expect((await pushBytes(small, 'os', IMAGE)).id).toMatch(/^[0-9a-f]{64}$/)
  })

  it('when it is cancelled, and keeps what it stored for the next try', async () => {
    await using small = await smallStore()
    const controller = new AbortController()
    async function* slow(): AsyncGenerator<Uint8Array> {
      yield Buffer.concat([IMAGE, IMAGE])
      for (let page = 0; page < 24 * 128; page++) yield randomImage(1)
      // The chunks of the image come first, and there are eight.
      while ((await writtenFiles(join(small.url, 'tmp'), RANGE_BYTES / 2)) < 16) await new Promise(resolve => setTimeout(resolve, 5))
      controller.abort(new Error('enough'))
      yield randomImage(1)
    }
    const push = small.store.push({ layer: 'os', images: { memory: { stream: slow() } } }, { signal: controller.signal })
    await expect(push).rejects.toThrow('enough')
    expect((await pushBytes(small, 'os', IMAGE)).counts.foundChunks).toBeGreaterThan(0)
  })

  it('by a keyring of another store, and by a worker', async () => {
    await using small = await smallStore()
    await using other = await smallStore()
    expect(await codeOfAsync(() => openStore(small.url, { keyring: other.keyring }))).toBe('WRONG_KEY')
    const worker = await small.keyring.exportKeyring(join(small.dir, 'worker.keys'), 'worker')
    await using store = await openStore(small.url, { keyring: worker })
    expect(await codeOfAsync(() => store.push({ layer: 'os', images: { memory: { stream: pieces(IMAGE) } } }))).toBe('WRONG_KEY')
    const { id } = await pushBytes(small, 'os', IMAGE)
    await using snapshot = await store.open(id)
    expect(Buffer.compare(await snapshot.image('memory').read(0, IMAGE.length), IMAGE)).toBe(0)
    expect(await codeOfAsync(() => store.tag(id, { tenant: undefined, name: 'x' }))).toBe('WRONG_KEY')
  })
})

it('two pushes of one image at once both succeed, with one copy', async () => {
  await using small = await smallStore()
  const [a, b] = await Promise.all([pushBytes(small, 'os', IMAGE), pushBytes(small, 'os', IMAGE)])
  expect(a.id).not.toBe(b.id)
  expect(await small.store.verify(a.id)).toMatchObject({ bad: [] })
  const stored = (await small.store.inspect(a.id)).chunks
  const root = join(small.url, 'roots', a.root, 'chunks')
  const files = (await readdir(root, { recursive: true, withFileTypes: true })).filter(entry => entry.isFile())
  expect(files.length).toBe(stored)
})

it('a snapshot whose tenant key is gone is WRONG_KEY, never garbage', async () => {
  await using small = await smallStore()
  const { id } = await pushBytes(small, 'function', IMAGE, { tenant: 'acme' })
  const beta = await small.keyring.exportKeyring(join(small.dir, 'beta.keys'), 'worker', { tenants: ['beta'] })
  await using store = await openStore(small.url, { keyring: beta })
  expect(await codeOfAsync(() => store.open(id))).toBe('WRONG_KEY')
  expect((await store.inspect(id)).details).toBeUndefined()
  expect(await store.verify(id)).toMatchObject({ opened: false, bad: [] })
})

it('refuses a keyring that others can read', async () => {
  await using small = await smallStore()
  await chmod(join(small.dir, 'keys'), 0o644)
  const { fileKeyring } = await import('../src/index.ts')
  expect(await codeOfAsync(() => fileKeyring(join(small.dir, 'keys')))).toBe('DENIED')
})

/** An image during whose push a file is changed: after it was opened, before it is read to its end. */
async function* changing(change: (path: string) => Promise<unknown>, path: string): AsyncGenerator<Uint8Array> {
  yield IMAGE.subarray(0, PAGE_BYTES)
  // File times have a granularity: a change within the same tick as the writing of the file would not show.
  await new Promise(resolve => setTimeout(resolve, 20))
  await change(path)
}

async function writtenFiles(folder: string, sizeBytesMin: number): Promise<number> {
  const sizes = await Promise.all((await readdir(folder)).map(async name => (await stat(join(folder, name))).size))
  return sizes.filter(size => size > sizeBytesMin).length
}

async function manifests(small: SmallStore): Promise<string[]> {
  const found: string[] = []
  for await (const { id } of small.store.list()) found.push(id)
  return found
}

it('reads files that have content but no length, as in /proc', async () => {
  await using small = await smallStore()
  const { id } = await small.store.push({ layer: 'os', images: { version: { path: '/proc/version' } } })
  expect((await contents(small, id, 'version')).equals(await readFile('/proc/version'))).toBe(true)
})

it('does not pull over a folder, and leaves everything as it was', async () => {
  await using small = await smallStore()
  const { id } = await small.store.push({ layer: 'os', images: { a: { stream: pieces(IMAGE) }, b: { stream: pieces(IMAGE) } } })
  const out = join(small.dir, 'out')
  await mkdir(join(out, 'b'), { recursive: true })
  await writeFile(join(out, 'a'), 'old')
  await using snapshot = await small.store.open(id)
  expect(await codeOfAsync(() => snapshot.pull(out))).toBe('CONFLICT')
  expect(await readFile(join(out, 'a'), 'utf8')).toBe('old')
  expect((await readdir(out)).sort()).toEqual(['a', 'b'])
})

it('lists the good snapshots beside a damaged one', async () => {
  await using small = await smallStore()
  const good = await pushBytes(small, 'os', IMAGE)
  const bad = await pushBytes(small, 'os', IMAGE)
  await appendFile(join(small.url, 'roots', bad.root, 'manifests', bad.id), 'x')
  expect(await codeOfAsync(() => manifests(small))).toBe('CORRUPT')
  const listed: string[] = []
  const told: string[] = []
  for await (const { id } of small.store.list({ onBad: ({ id }) => told.push(id) })) listed.push(id)
  expect({ listed, told }).toEqual({ listed: [good.id], told: [bad.id] })
})

it('tells a publisher with another zstd that it shares nothing, or refuses it', async () => {
  await using small = await smallStore()
  const { root } = await pushBytes(small, 'os', IMAGE)
  const path = join(small.url, 'roots', root, 'root.json')
  const { sha256, ...members } = JSON.parse(await readFile(path, 'utf8'))
  expect(sha256).toMatch(/^[0-9a-f]{64}$/)
  members.profile.zstd = '0.0.1'
  const body = JSON.stringify(members)
  await writeFile(path, `${body.slice(0, -1)},"sha256":"${hash('sha256', body)}"}\n`)
  await using warned = await openStore(small.url, { keyring: small.keyring })
  const { warnings } = await warned.push({ layer: 'os', images: { memory: { stream: pieces(IMAGE) } } })
  expect(warnings).toHaveLength(1)
  await using strict = await openStore(small.url, { keyring: small.keyring, requireProfile: true })
  expect(await codeOfAsync(() => strict.push({ layer: 'os', images: { memory: { stream: pieces(IMAGE) } } }))).toBe('UNSUPPORTED')
})
