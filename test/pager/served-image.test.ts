/** Images as pagers serve them: every read, write and zero against a plain array of bytes, through an arena that is smaller than the image. */
import fc from 'fast-check'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { PAGE_BYTES, pageCount } from '../../src/chunk.ts'
import { LocalEngine } from '../../src/engine/local.ts'
import type { EngineStore, HeldSnapshot } from '../../src/engine.ts'
import { type ErrorCode, ThawError } from '../../src/errors.ts'
import { Overlay } from '../../src/overlay.ts'
import { ZERO } from '../../src/pagemap.ts'
import { allocateFigures, readFigures } from '../../src/pager/figures.ts'
import { mainImages } from '../../src/pager/main-images.ts'
import type { Gathered, PagedImage, ReadCallbacks, ServedImage, WriteCallbacks } from '../../src/pager.ts'
import type { ObjectStore } from '../../src/store.ts'
import { type MarkedStore, markedPages, markedStore, ROOT } from '../engine/marked-store.ts'
import { patchedStore } from '../patched-store.ts'

const CHUNKS = 40
const CHUNK_PAGES = 3
const DEADLINE_MS = 2000
const owner = { tenant: 'acme', restore: 'r1' }
/** The last page is short. */
const SIZE_BYTES = 150 * PAGE_BYTES - 1000
const PAGES = 150

let stored: MarkedStore
let map: Pick<PagedImage['image'], 'starts' | 'chunks' | 'firsts'>
let content: Buffer

beforeAll(async () => {
  stored = await markedStore(CHUNKS, CHUNK_PAGES)
  ;({ map, content } = scattered())
})
afterAll(async () => await stored[Symbol.asyncDispose]())

/** Runs of one to three pages of chunks in no order, and zeros between them. */
function scattered(): { readonly map: typeof map; readonly content: Buffer } {
  const starts: number[] = []
  const chunks: number[] = []
  const firsts: number[] = []
  const bytes = Buffer.alloc(PAGES * PAGE_BYTES)
  for (let page = 0, run = 0; page < PAGES; run++) {
    const count = Math.min(1 + (run % CHUNK_PAGES), PAGES - page)
    const chunk = run % 5 === 4 ? ZERO : (run * 17) % CHUNKS
    const first = chunk === ZERO ? 0 : CHUNK_PAGES - count
    starts.push(page)
    chunks.push(chunk)
    firsts.push(first)
    if (chunk !== ZERO) markedPages(chunk, CHUNK_PAGES).copy(bytes, page * PAGE_BYTES, first * PAGE_BYTES, (first + count) * PAGE_BYTES)
    page += count
  }
  return {
    map: { starts: Uint32Array.from([...starts, PAGES]), chunks: Int32Array.from(chunks), firsts: Uint8Array.from(firsts) },
    content: bytes.subarray(0, SIZE_BYTES),
  }
}

interface Opened extends AsyncDisposable {
  readonly image: ServedImage
  readonly figures: SharedArrayBuffer
}

interface OpenOptions {
  readonly sizeMax?: number
  readonly writable?: boolean
  /** Of an image of this size in place of the other one. */
  readonly zeroBytes?: number
}

async function open(objects: ObjectStore, { sizeMax, writable = true, zeroBytes }: OpenOptions = {}): Promise<Opened> {
  const sizeBytes = zeroBytes ?? SIZE_BYTES
  const engine = new LocalEngine({ memoryBytes: 0, caches: [] })
  const store: EngineStore = await engine.openStore(objects)
  const held: HeldSnapshot = await store.hold(stored.columns, ROOT)
  const overlay = await Overlay.create({
    dir: stored.dir,
    name: `o${Math.random()}`,
    images: [{ name: 'memory', sizeBytes }],
    sizeMax,
  })
  const figures = allocateFigures()
  const zeros = { starts: Uint32Array.of(0, pageCount(sizeBytes)), chunks: Int32Array.of(ZERO), firsts: Uint8Array.of(0) }
  const image = { sizeBytes, ...(zeroBytes === undefined ? map : zeros), numbers: held.numbers, handle: held.handle }
  const shared = writable ? await overlay.image('memory', { written: true }) : undefined
  const images = mainImages(engine, held, [{ name: 'memory', kind: 'memory', image, owner, overlay: shared, figures }], DEADLINE_MS)
  return {
    image: images.get('memory')!,
    figures,
    async [Symbol.asyncDispose]() {
      held.release()
      await store.close()
      await engine.close()
      await overlay.close()
    },
  }
}

type Outcome = Buffer | ErrorCode | 'bug'

function read(image: ServedImage, offset: number, sizeBytes: number): Promise<Outcome> {
  return new Promise(resolve => {
    image.read(offset, sizeBytes, {
      onBytes(bytes: Gathered) {
        const copy = Buffer.alloc(sizeBytes)
        expect(bytes.sizeBytes).toBe(sizeBytes)
        expect(bytes.copyTo(copy)).toBe(sizeBytes)
        resolve(copy)
      },
      onReadFailed: code => resolve(code ?? 'bug'),
      onBroken: () => resolve('bug'),
    })
  })
}

function change(begin: (callbacks: WriteCallbacks) => void): Promise<string> {
  return new Promise(resolve =>
    begin({ onWritten: () => resolve('written'), onWriteFailed: code => resolve(code ?? 'bug'), onBroken: () => resolve('bug') }),
  )
}

const write = (image: ServedImage, offset: number, bytes: Uint8Array): Promise<string> =>
  change(callbacks => image.write(offset, bytes, callbacks))
const zero = (image: ServedImage, offset: number, sizeBytes: number): Promise<string> =>
  change(callbacks => image.zero(offset, sizeBytes, callbacks))

let opened: Opened

describe('an image that is served', () => {
  beforeEach(async () => {
    opened = await open(stored.objects)
  })
  afterEach(async () => await opened[Symbol.asyncDispose]())

  it('reads whole, though more chunks are needed than the arena has slots', async () => {
    expect(await read(opened.image, 0, SIZE_BYTES)).toEqual(content)
    const { misses, failures, chunks, readBytes } = readFigures(opened.figures)
    expect({ misses, failures, readBytes }).toEqual({ misses: 1, failures: 0, readBytes: SIZE_BYTES })
    expect(chunks.origin).toBeGreaterThan(16)
  })

  it('answers at once what is in memory', async () => {
    await read(opened.image, 0, PAGE_BYTES)
    let answered = false
    opened.image.read(10, 100, {
      onBytes: bytes => (answered = bytes.sizeBytes === 100),
      onReadFailed: () => undefined,
      onBroken: () => undefined,
    })
    expect(answered).toBe(true)
    expect(readFigures(opened.figures).hits).toBe(1)
  })

  it('serves many readers at a time', async () => {
    const places = Array.from({ length: 300 }, (_, i) => ({ offset: (i * 7919) % (SIZE_BYTES - 5000), sizeBytes: 1 + ((i * 31) % 5000) }))
    const found = await Promise.all(places.map(({ offset, sizeBytes }) => read(opened.image, offset, sizeBytes)))
    for (const [i, { offset, sizeBytes }] of places.entries()) expect(found[i]).toEqual(content.subarray(offset, offset + sizeBytes))
  })

  it('is like an array of bytes', async () => {
    const place = fc.tuple(fc.nat(SIZE_BYTES - 1), fc.integer({ min: 1, max: 40_000 }))
    const step = fc.record({ kind: fc.constantFrom('read', 'write', 'zero'), place, fill: fc.nat(255) })
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 12 }), async steps => {
        await using fresh = await open(stored.objects)
        const model = Buffer.from(content)
        for (const { kind, place, fill } of steps) {
          const offset = place[0]
          const sizeBytes = Math.min(place[1], SIZE_BYTES - offset)
          if (kind === 'read') expect(await read(fresh.image, offset, sizeBytes)).toEqual(model.subarray(offset, offset + sizeBytes))
          else if (kind === 'write') expect(await write(fresh.image, offset, Buffer.alloc(sizeBytes, fill))).toBe('written')
          else expect(await zero(fresh.image, offset, sizeBytes)).toBe('written')
          if (kind !== 'read') model.fill(kind === 'zero' ? 0 : fill, offset, offset + sizeBytes)
        }
        expect(await read(fresh.image, 0, SIZE_BYTES)).toEqual(model)
      }),
      { numRuns: 40 },
    )
  })

  it('tells stretches of zeros, which change with what is written', async () => {
    expect(opened.image.dataPages).toBe(pagesOf(page => map.chunks[runAt(page)] !== ZERO))
    const zeroPage = map.starts[4]!
    expect(opened.image.stretch(zeroPage)).toMatchObject({ isZero: true })
    await write(opened.image, zeroPage * PAGE_BYTES, Buffer.alloc(PAGE_BYTES, 1))
    expect(opened.image.stretch(zeroPage)).toEqual({ isZero: false, pages: 1 })
    await zero(opened.image, 0, PAGE_BYTES)
    expect(opened.image.stretch(0)).toEqual({ isZero: true, pages: 1 })
    opened.image.lose(zeroPage * PAGE_BYTES, 1)
    expect(opened.image.stretch(zeroPage)).toMatchObject({ isZero: false })
  })

  it('becomes zero in turns, between which others are served', async () => {
    const zeroBytes = 2 ** 20 * PAGE_BYTES + 100
    await using large = await open(stored.objects, { zeroBytes })
    await write(large.image, zeroBytes - PAGE_BYTES, Buffer.alloc(PAGE_BYTES, 3))
    const order: string[] = []
    const zeroing = zero(large.image, 10, zeroBytes - 10).then(outcome => order.push(outcome))
    const reading = read(large.image, zeroBytes - 100, 100).then(bytes => order.push(bytes.toString('latin1', 0, 1)))
    await Promise.all([zeroing, reading])
    expect(order).toEqual(['\x03', 'written'])
    expect(await read(large.image, zeroBytes - PAGE_BYTES, PAGE_BYTES)).toEqual(Buffer.alloc(PAGE_BYTES))
    let told = 0
    const callbacks = { onWritten: () => told++, onWriteFailed: () => told++, onBroken: () => told++ }
    large.image.zero(0, zeroBytes, callbacks)
    large.image.cancel(callbacks)
    // As many turns as the other one would have taken.
    expect(await zero(large.image, 0, zeroBytes)).toBe('written')
    expect(told).toBe(0)
  })

  it('hands what is thrown after a wait to whoever threw it', async () => {
    const bug = new Error('a bug')
    const fail = (): void => {
      throw bug
    }
    const broken = (begin: (callbacks: ReadCallbacks & WriteCallbacks) => void): Promise<unknown> =>
      new Promise(resolve => begin({ onBytes: fail, onReadFailed: fail, onWritten: fail, onWriteFailed: fail, onBroken: resolve }))
    const { image } = opened
    // A chunk, more chunks than stay together, a page that is written to in part, many pages that become zero.
    expect(await broken(callbacks => image.read(0, 100, callbacks))).toBe(bug)
    expect(await broken(callbacks => image.read(0, SIZE_BYTES, callbacks))).toBe(bug)
    expect(await broken(callbacks => image.write(10, Buffer.alloc(10), callbacks))).toBe(bug)
    await using large = await open(stored.objects, { zeroBytes: 2 ** 30 })
    expect(await broken(callbacks => large.image.zero(0, 2 ** 30, callbacks))).toBe(bug)
    await using failing = await open(patchedStore(stored.objects, { get: () => Promise.reject(new ThawError('NOT_FOUND', 'gone')) }))
    expect(await broken(callbacks => failing.image.read(0, 100, callbacks))).toBe(bug)
    expect(await read(image, 0, SIZE_BYTES)).toHaveLength(SIZE_BYTES)
  })

  it('says nothing any more to who cancelled', async () => {
    let told = 0
    const tell = (): void => void told++
    const callbacks = { onBytes: tell, onReadFailed: tell, onWritten: tell, onWriteFailed: tell, onBroken: tell }
    opened.image.read(0, SIZE_BYTES, callbacks)
    opened.image.write(10, Buffer.alloc(10), callbacks)
    opened.image.cancel(callbacks)
    expect(await read(opened.image, 0, SIZE_BYTES)).toHaveLength(SIZE_BYTES)
    expect(told).toBe(0)
  })
})

function runAt(page: number): number {
  return map.starts.findIndex((start, run) => start <= page && page < map.starts[run + 1]!)
}

function pagesOf(holds: (page: number) => boolean): number {
  return Array.from({ length: PAGES }, (_, page) => page).filter(holds).length
}

describe('what cannot be', () => {
  it('is an error of that write alone when the overlay is full', async () => {
    await using small = await open(stored.objects, { sizeMax: 2 * PAGE_BYTES })
    expect(await write(small.image, 0, Buffer.alloc(2 * PAGE_BYTES, 9))).toBe('written')
    expect(await write(small.image, 4 * PAGE_BYTES, Buffer.alloc(PAGE_BYTES, 9))).toBe('NO_SPACE')
    expect(await write(small.image, 4 * PAGE_BYTES + 1, Buffer.alloc(1, 9))).toBe('NO_SPACE')
    expect(await read(small.image, 4 * PAGE_BYTES, PAGE_BYTES)).toEqual(content.subarray(4 * PAGE_BYTES, 5 * PAGE_BYTES))
    expect(await write(small.image, 0, Buffer.alloc(PAGE_BYTES, 8))).toBe('written')
  })

  it('is CORRUPT to read where a write was lost, until all of the page is written again', async () => {
    await using image = await open(stored.objects)
    const at = (page: number, sizeBytes = PAGE_BYTES): Promise<Outcome> => read(image.image, page * PAGE_BYTES, sizeBytes)
    await write(image.image, 3 * PAGE_BYTES, Buffer.alloc(4 * PAGE_BYTES, 9))
    expect(image.image.isDamaged).toBe(false)
    image.image.lose(4 * PAGE_BYTES, 2 * PAGE_BYTES)
    image.image.lose(SIZE_BYTES - 1, 1)
    expect(await Promise.all([at(3), at(4), at(5), at(6)])).toEqual([
      Buffer.alloc(PAGE_BYTES, 9),
      'CORRUPT',
      'CORRUPT',
      Buffer.alloc(PAGE_BYTES, 9),
    ])
    expect(await at(2, 3 * PAGE_BYTES)).toBe('CORRUPT')
    // Behind a page that has to be fetched.
    expect(await at(147, SIZE_BYTES - 147 * PAGE_BYTES)).toBe('CORRUPT')
    expect(await write(image.image, 4 * PAGE_BYTES + 1, Buffer.alloc(10, 1))).toBe('CORRUPT')
    expect(await write(image.image, 4 * PAGE_BYTES, Buffer.alloc(PAGE_BYTES, 1))).toBe('written')
    expect(await zero(image.image, 5 * PAGE_BYTES, PAGE_BYTES)).toBe('written')
    expect(await at(4, 2 * PAGE_BYTES)).toEqual(Buffer.concat([Buffer.alloc(PAGE_BYTES, 1), Buffer.alloc(PAGE_BYTES)]))
    expect(image.image.isDamaged).toBe(true)
  })

  it('is DENIED without an overlay', async () => {
    await using fixed = await open(stored.objects, { writable: false })
    expect(fixed.image.isWritable).toBe(false)
    expect(await write(fixed.image, 0, Buffer.alloc(1))).toBe('DENIED')
    expect(await zero(fixed.image, 0, 1)).toBe('DENIED')
  })

  it('is asked for again while the store cannot be reached', async () => {
    let failures = 3
    await using flaky = await open(failing(stored.objects, () => (failures-- > 0 ? 'fail' : 'serve')))
    expect(await read(flaky.image, 0, 100)).toEqual(content.subarray(0, 100))
    expect(failures).toBeLessThan(0)
  })

  it('ends at the deadline, for reads and for writes of part of a page', async () => {
    await using hanging = await open(failing(stored.objects, () => 'hang'))
    expect(await Promise.all([read(hanging.image, 0, 100), write(hanging.image, 10, Buffer.alloc(10))])).toEqual(['TIMEOUT', 'TIMEOUT'])
    expect(await write(hanging.image, 0, Buffer.alloc(PAGE_BYTES, 3))).toBe('written')
    expect(await read(hanging.image, 0, 100)).toEqual(Buffer.alloc(100, 3))
    expect(readFigures(hanging.figures).failures).toBe(2)
  })
})

/** The store, with reads that fail or never end. */
function failing(objects: ObjectStore, next: () => 'serve' | 'fail' | 'hang'): ObjectStore {
  return new Proxy(objects, {
    get(target, name) {
      const member: unknown = Reflect.get(target, name)
      if (typeof member !== 'function') return member
      if (!String(name).startsWith('get')) return member.bind(target)
      return async (...args: readonly unknown[]) => {
        const what = next()
        if (what === 'hang') return await new Promise(() => undefined)
        if (what === 'fail') throw new ThawError('UNAVAILABLE', 'down')
        return await member.apply(target, args)
      }
    },
  })
}
