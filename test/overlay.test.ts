/** The overlay of a restore: against a plain array of bytes, at its bounds, and beside others. */
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdir, mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { Worker } from 'node:worker_threads'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { PAGE_BYTES, pageCount } from '../src/chunk.ts'
import type { ChangedPages } from '../src/index.ts'
import { ImageOverlay, type SharedOverlay } from '../src/overlay/image-overlay.ts'
import { overlayChanges } from '../src/overlay/overlay-changes.ts'
import { PAGE_STATE } from '../src/overlay/page-states.ts'
import { Overlay, type OverlayOptions } from '../src/overlay.ts'
import { loadNative } from '../src/util/native.ts'
import { codeOf, codeOfAsync } from './code-of.ts'
import { mountTmpfs } from './fault/tmpfs.ts'

const PAGES = 40
/** The last page is short. */
const SIZE_BYTES = (PAGES - 1) * PAGE_BYTES + 100
const IMAGES = [
  { name: 'rootfs', sizeBytes: SIZE_BYTES },
  { name: 'memory', sizeBytes: 8 * PAGE_BYTES },
]

let dir: string

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'thaw-overlay-'))
})
afterEach(() => rm(dir, { recursive: true, force: true }))

function create(options: Partial<OverlayOptions> = {}): Promise<Overlay> {
  return Overlay.create({ dir, name: 'r1', images: IMAGES, ...options })
}

function page(fill: number, sizeBytes: number = PAGE_BYTES): Buffer {
  return Buffer.alloc(sizeBytes, fill)
}

function readPages(image: ImageOverlay, first: number, count = 1): Buffer {
  const bytes = Buffer.alloc(Math.min(count * PAGE_BYTES, image.sizeBytes - first * PAGE_BYTES))
  image.read(first * PAGE_BYTES, bytes.length, bytes, 0)
  return bytes
}

async function allocatedBytes(path: string): Promise<number> {
  return (await stat(path)).blocks * 512
}

describe('an image', () => {
  const pages = fc
    .nat(PAGES - 1)
    .chain(first => fc.record({ first: fc.constant(first), count: fc.integer({ min: 1, max: PAGES - first }) }))
  const operation = fc.oneof(
    fc.record({ kind: fc.constant('write' as const), at: pages, fill: fc.integer({ min: 0, max: 255 }) }),
    fc.record({ kind: fc.constant('zero' as const), at: pages }),
  )

  it('is what was written to it, like an array of bytes (model)', async () => {
    const native = await loadNative('the test')
    let runs = 0
    await fc.assert(
      fc.asyncProperty(fc.array(operation, { maxLength: 30 }), fc.boolean(), async (operations, punches) => {
        await using overlay = await create({ name: `run${runs++}` })
        const shared = await overlay.image('rootfs', { written: true })
        const image = new ImageOverlay(shared, punches ? native : undefined)
        const bytes = Buffer.alloc(SIZE_BYTES)
        const states = new Uint8Array(PAGES)
        for (const { kind, at, ...rest } of operations) {
          const end = Math.min((at.first + at.count) * PAGE_BYTES, SIZE_BYTES)
          const fill = 'fill' in rest ? rest.fill : 0
          bytes.fill(fill, at.first * PAGE_BYTES, end)
          states.fill(PAGE_STATE[kind === 'write' ? 'written' : 'zero'], at.first, at.first + at.count)
          if (kind === 'write') image.write(at.first, page(fill, end - at.first * PAGE_BYTES))
          else image.zero(at.first, at.count)
        }
        expectLike(image, bytes, states)
        expect(covered([...overlayChanges(shared).stretches()])).toEqual(states)
        expect(overlay.figures()).toMatchObject({
          writtenPages: states.filter(state => state === PAGE_STATE.written).length,
          zeroPages: states.filter(state => state === PAGE_STATE.zero).length,
        })
      }),
      { numRuns: 60 },
    )
  })

  function expectLike(image: ImageOverlay, bytes: Buffer, states: Uint8Array): void {
    for (let at = 0; at < PAGES; ) {
      const count = image.run(at, PAGES)
      expect(states.subarray(at, at + count)).toEqual(new Uint8Array(count).fill(image.stateOf(at)))
      if (image.stateOf(at) === PAGE_STATE.written) {
        expect(readPages(image, at, count).compare(bytes, at * PAGE_BYTES, Math.min((at + count) * PAGE_BYTES, SIZE_BYTES))).toBe(0)
      }
      at += count
    }
  }

  /** The states that the stretches say. */
  function covered(stretches: readonly ChangedPages[]): Uint8Array {
    const states = new Uint8Array(PAGES)
    let end = 0
    for (const { page, count, kind } of stretches) {
      expect(page).toBeGreaterThanOrEqual(end)
      end = page + count
      states.fill(PAGE_STATE[kind === 'zero' ? 'zero' : 'written'], page, end)
    }
    return states
  }

  it('reads parts of pages to anywhere in a buffer', async () => {
    await using overlay = await create()
    const image = new ImageOverlay(await overlay.image('rootfs', { written: true }))
    const bytes = randomBytes(3 * PAGE_BYTES)
    image.write(5, bytes)
    const target = Buffer.alloc(7000, 9)
    image.read(5 * PAGE_BYTES + 1000, 6000, target, 500)
    expect(target.subarray(500, 6500).equals(bytes.subarray(1000, 7000))).toBe(true)
    expect([target[499], target[6500]]).toEqual([9, 9])
  })

  it('takes bytes of shared memory, and is seen by other threads', async () => {
    await using overlay = await create()
    const shared = await overlay.image('memory', { written: true })
    const bytes = Buffer.from(new SharedArrayBuffer(PAGE_BYTES)).fill(7)
    await writeOnThread(shared, 3, bytes)
    const image = new ImageOverlay(shared)
    expect(image.stateOf(3)).toBe(PAGE_STATE.written)
    expect(readPages(image, 3).equals(page(7))).toBe(true)
    expect(overlay.figures().images).toEqual([{ name: 'memory', writtenPages: 1, zeroPages: 0 }])
  })

  it('gives the disk back what becomes zero', async () => {
    await using overlay = await create()
    const image = new ImageOverlay(await overlay.image('rootfs', { written: true }), await loadNative('the test'))
    const path = join(overlay.folder, 'rootfs.pages')
    expect(await allocatedBytes(path)).toBe(0)
    image.write(0, page(1, 20 * PAGE_BYTES))
    expect(await allocatedBytes(path)).toBeGreaterThanOrEqual(20 * PAGE_BYTES)
    image.zero(0, 16)
    expect(await allocatedBytes(path)).toBeLessThanOrEqual(8 * PAGE_BYTES)
    expect((await stat(path)).size).toBe(SIZE_BYTES)
  })

  it('of states only has no file, until one is wanted', async () => {
    await using overlay = await create()
    const shared = await overlay.image('memory', { written: false })
    new ImageOverlay(shared).zero(2, 3)
    expect([...overlayChanges(shared).stretches()]).toEqual([{ kind: 'zero', page: 2, count: 3 }])
    expect(await readdir(overlay.folder)).toEqual(['overlay.lock'])
    const withFile = await overlay.image('memory', { written: true })
    new ImageOverlay(withFile).write(4, page(1))
    expect(await overlay.image('memory', { written: false })).toBe(withFile)
    expect(overlay.figures()).toMatchObject({ writtenPages: 1, zeroPages: 2 })
    expect(await codeOfAsync(() => overlay.image('nothing', { written: true }))).toBe('RangeError')
  })

  it('becomes zero a bounded number of pages at a time, fewer where there is disk to give back', async () => {
    const pages = 2 ** 19
    await using overlay = await create({ images: [{ name: 'rootfs', sizeBytes: pages * PAGE_BYTES }] })
    const image = new ImageOverlay(await overlay.image('rootfs', { written: true }), await loadNative('the test'))
    image.write(9, page(1, 3000 * PAGE_BYTES))
    const steps: number[] = []
    for (let at = 0; at < pages; at += steps.at(-1)!) steps.push(image.zero(at, pages - at))
    expect(steps).toEqual([9 + 2 ** 11, 2 ** 17, 2 ** 17, 2 ** 17, 2 ** 17 - 9 - 2 ** 11])
    expect(image.run(0, pages)).toBe(pages)
    expect(overlay.figures()).toMatchObject({ writtenPages: 0, zeroPages: pages })
  })

  it('that somebody cut is CORRUPT, never zeros', async () => {
    await using overlay = await create()
    const image = new ImageOverlay(await overlay.image('rootfs', { written: true }))
    image.write(9, page(1))
    await truncate(join(overlay.folder, 'rootfs.pages'), 9 * PAGE_BYTES + 10)
    expect(codeOf(() => readPages(image, 9))).toBe('CORRUPT')
  })
})

describe('changes', () => {
  it('of an image that was written to meanwhile are CONFLICT', async () => {
    await using overlay = await create()
    const shared = await overlay.image('rootfs', { written: true })
    const image = new ImageOverlay(shared)
    image.write(0, page(1))
    const changes = overlayChanges(shared)
    expect([...changes.stretches()]).toEqual([{ kind: 'file', page: 0, count: 1, fd: shared.fd, offset: 0 }])
    changes.checkUnchanged()
    image.write(0, page(2))
    expect(codeOf(() => changes.checkUnchanged())).toBe('CONFLICT')
    expect([...changes.stretches()]).toHaveLength(1)
    expect(codeOf(() => changes.checkUnchanged())).toBe('CONFLICT')
    const next = overlayChanges(shared)
    next.checkUnchanged()
    image.zero(7, 1)
    expect(codeOf(() => next.checkUnchanged())).toBe('CONFLICT')
    expect(codeOf(() => changes.checkUnchanged())).toBe('CONFLICT')
  })

  it('while a write is under way are CONFLICT', async () => {
    await using overlay = await create()
    const shared = await overlay.image('rootfs', { written: true })
    const image = new ImageOverlay(shared)
    image.beginChange()
    const changes = overlayChanges(shared)
    expect(codeOf(() => changes.checkUnchanged())).toBe('CONFLICT')
    image.endChange()
    expect(codeOf(() => changes.checkUnchanged())).toBe('CONFLICT')
    overlayChanges(shared).checkUnchanged()
  })
})

describe('a full overlay', () => {
  it('takes no page beyond its budget, whichever image it is of, and those it has', async () => {
    await using overlay = await create({ sizeMax: 10 * PAGE_BYTES })
    const rootfs = new ImageOverlay(await overlay.image('rootfs', { written: true }))
    const memory = new ImageOverlay(await overlay.image('memory', { written: true }))
    rootfs.write(0, page(1, 8 * PAGE_BYTES))
    memory.write(0, page(2, 2 * PAGE_BYTES))
    expect(codeOf(() => memory.write(2, page(3)))).toBe('NO_SPACE')
    expect(codeOf(() => rootfs.write(7, page(3, 2 * PAGE_BYTES)))).toBe('NO_SPACE')
    expect([memory.stateOf(2), rootfs.stateOf(8)]).toEqual([PAGE_STATE.parent, PAGE_STATE.parent])
    expect(readPages(rootfs, 7).equals(page(1))).toBe(true)
    rootfs.write(7, page(4))
    rootfs.zero(3, 1)
    memory.write(2, page(5))
    expect(overlay.figures()).toMatchObject({ writtenPages: 10, zeroPages: 1, sizeMax: 10 * PAGE_BYTES })
  })

  it('on a full disk fails the write alone, and keeps what it has', async () => {
    await mkdir(join(dir, 'small'))
    using disk = mountTmpfs(join(dir, 'small'), 'size=64k')
    const overlay = await create({ dir: join(dir, 'small') })
    const image = new ImageOverlay(await overlay.image('rootfs', { written: true }), await loadNative('the test'))
    image.write(0, page(1, 4 * PAGE_BYTES))
    expect(codeOf(() => image.write(2, page(9, 36 * PAGE_BYTES)))).toBe('NO_SPACE')
    expect(readPages(image, 0, 4).equals(page(1, 4 * PAGE_BYTES))).toBe(true)
    expect(image.run(4, PAGES)).toBe(PAGES - 4)
    expect(overlay.figures().writtenPages).toBe(4)
    image.write(4, page(2, 2 * PAGE_BYTES))
    image.write(0, page(3))
    disk.remount('size=1m')
    image.write(2, page(9, 36 * PAGE_BYTES))
    expect(readPages(image, 2, 36).equals(page(9, 36 * PAGE_BYTES))).toBe(true)
    await overlay.close()
  })
})

describe('restores side by side', () => {
  it('write to folders of their own, which nobody else can read, and which go with them', async () => {
    const [a, b] = [await create({ name: 'a' }), await create({ name: 'b' })]
    const images = await Promise.all([a, b].map(async overlay => new ImageOverlay(await overlay.image('rootfs', { written: true }))))
    images.forEach((image, i) => void image.write(i, page(i + 1)))
    expect(images.map(image => [image.stateOf(0), image.stateOf(1)])).toEqual([
      [PAGE_STATE.written, PAGE_STATE.parent],
      [PAGE_STATE.parent, PAGE_STATE.written],
    ])
    expect((await stat(a.folder)).mode & 0o777).toBe(0o700)
    expect((await stat(join(a.folder, 'rootfs.pages'))).mode & 0o777).toBe(0o600)
    await a.close()
    await a.close()
    expect(await readdir(dir)).toEqual(['b'])
    expect(readPages(images[1]!, 1).equals(page(2))).toBe(true)
    expect(await codeOfAsync(() => a.image('rootfs', { written: true }))).toBe('CLOSED')
    await b.close()
    expect(await readdir(dir)).toEqual([])
  })

  it('do not take the folder of another one, nor one that is none', async () => {
    await using _ = await create()
    expect(await codeOfAsync(() => create())).toBe('CONFLICT')
    await mkdir(join(dir, 'foreign'))
    await writeFile(join(dir, 'foreign', 'file'), 'x')
    expect(await codeOfAsync(() => create({ name: 'foreign' }))).toBe('CONFLICT')
    expect(await readdir(join(dir, 'foreign'))).toEqual(['file'])
  })

  it.each(['', '..', 'a/b', '.hidden', 'x'.repeat(129)])('refuse the name %j', async name => {
    expect(await codeOfAsync(() => create({ name }))).toBe('RangeError')
  })
})

describe('what a killed process left', () => {
  it('is removed by the next one, but what was kept, what runs and what is not ours', async () => {
    await mkdir(join(dir, 'foreign'))
    const kept = await create({ name: 'kept', keep: true })
    await kept.close()
    await using running = await create({ name: 'running' })
    await runKilled('dead')
    await runKilled('again')
    expect(await readdir(join(dir, 'again'))).toEqual(expect.arrayContaining(['overlay.lock', 'rootfs.pages']))
    const next = await create({ name: 'again' })
    await next.image('rootfs', { written: true })
    await next.close()
    expect((await readdir(dir)).sort()).toEqual(['foreign', 'kept', 'running'])
    expect(running.figures().writtenPages).toBe(0)
  })

  /** A process that writes to an overlay and is gone without a word. */
  async function runKilled(name: string): Promise<void> {
    const source = (file: string): string => JSON.stringify(new URL(`../src/${file}`, import.meta.url).href)
    const program = `
      const { Overlay } = await import(${source('overlay.ts')})
      const { ImageOverlay } = await import(${source('overlay/image-overlay.ts')})
      const overlay = await Overlay.create({ dir: ${JSON.stringify(dir)}, name: '${name}', images: [{ name: 'rootfs', sizeBytes: 8192 }], keep: true })
      new ImageOverlay(await overlay.image('rootfs', { written: true })).write(0, Buffer.alloc(4096, 1))
      process.kill(process.pid, 'SIGKILL')`
    await promisify(execFile)(process.execPath, ['--input-type=module', '-e', program]).catch(({ signal }) =>
      expect(signal).toBe('SIGKILL'),
    )
  }
})

describe('a kept overlay', () => {
  it('says which of its pages count', async () => {
    const overlay = await create({ keep: true })
    const image = new ImageOverlay(await overlay.image('rootfs', { written: true }))
    await overlay.image('memory', { written: false })
    image.write(1, page(5, 2 * PAGE_BYTES))
    image.zero(2, 1)
    await overlay.close()
    expect((await readdir(overlay.folder)).sort()).toEqual(['overlay.states', 'rootfs.pages'])
    const bytes = await readFile(join(overlay.folder, 'overlay.states'))
    expect(bytes.toString('latin1', 0, 8)).toBe('THAWOVL1')
    const end = 12 + bytes.readUInt32LE(8)
    expect(JSON.parse(bytes.toString('utf8', 12, end))).toEqual({
      images: [
        { name: 'rootfs', sizeBytes: SIZE_BYTES, pages: true },
        { name: 'memory', sizeBytes: 8 * PAGE_BYTES, pages: false },
      ],
    })
    expect(bytes.subarray(end)).toHaveLength(PAGES + pageCount(8 * PAGE_BYTES))
    expect([...bytes.subarray(end, end + 4)]).toEqual([0, 1, 2, 0])
    expect((await readFile(join(overlay.folder, 'rootfs.pages'))).subarray(PAGE_BYTES, 2 * PAGE_BYTES).equals(page(5))).toBe(true)
    expect(await codeOfAsync(() => create())).toBe('CONFLICT')
  })
})

async function writeOnThread(shared: SharedOverlay, first: number, bytes: Buffer): Promise<void> {
  const program = `
    const { workerData: { shared, first, memory, url } } = require('node:worker_threads')
    import(url).then(({ ImageOverlay }) => new ImageOverlay(shared).write(first, new Uint8Array(memory)))`
  const url = new URL('../src/overlay/image-overlay.ts', import.meta.url).href
  const worker = new Worker(program, { eval: true, workerData: { shared, first, memory: bytes.buffer, url } })
  await new Promise((resolve, reject) => worker.on('exit', resolve).on('error', reject))
}
