/** Commits in a row of one restore, against plain bytes: what the guest wrote lies in an overlay, in the VMM's diffs, or was given back. Without a guest. */
import { open, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { PAGE_BYTES } from '../src/chunk.ts'
import { Commits } from '../src/commit/commits.ts'
import type { CommitOptions } from '../src/commit.ts'
import { ThawError } from '../src/errors.ts'
import type { PushResult } from '../src/index.ts'
import { ImageOverlay, type SharedOverlay } from '../src/overlay/image-overlay.ts'
import { Overlay } from '../src/overlay.ts'
import { codeOfAsync } from './code-of.ts'
import { pieces, randomImage, type SmallStore, smallStore } from './small-store.ts'

const PAGES = 300

let small: SmallStore
let runs = 0

beforeEach(async () => {
  small = await smallStore()
})
afterEach(() => small[Symbol.asyncDispose]())

/** A guest and its VMM: `memory` is the VMM's own, `rootfs` is served. Bytes are what the guest sees. */
class Guest implements AsyncDisposable {
  readonly memory: Buffer
  readonly rootfs: Buffer
  readonly commits: Commits<PushResult>
  readonly snapshot: string
  /** What the next push fails with. */
  failure: Error | undefined
  /** Called when the images were looked at, before anything is read. */
  onPush: (() => void) | undefined
  flushes = 0
  readonly overlays: { readonly memory: SharedOverlay; readonly rootfs: SharedOverlay }
  readonly #overlay: Overlay
  readonly #gave: ImageOverlay
  readonly #disk: ImageOverlay
  /** Pages of memory that the VMM has written since its snapshot was loaded, and since it last wrote a diff. */
  readonly #sinceSnapshot = new Set<number>()
  readonly #sinceDiff = new Set<number>()
  #files = 0

  private constructor(snapshot: string, image: Buffer, overlay: Overlay, overlays: Guest['overlays']) {
    this.snapshot = snapshot
    this.memory = Buffer.from(image)
    this.rootfs = Buffer.from(image)
    this.#overlay = overlay
    this.overlays = overlays
    this.#gave = new ImageOverlay(overlays.memory)
    this.#disk = new ImageOverlay(overlays.rootfs)
    this.commits = new Commits<PushResult>({
      id: 'r1',
      images: () => [
        { name: 'memory', sizeBytes: image.length, isPrivate: true, overlay: overlays.memory },
        { name: 'rootfs', sizeBytes: image.length, isPrivate: false, overlay: overlays.rootfs },
      ],
      flush: async () => void this.flushes++,
      push: async ({ parent = snapshot, layer = 'os', ...spec }, options) => {
        this.onPush?.()
        const failure = this.failure
        this.failure = undefined
        if (failure !== undefined) throw failure
        return await small.store.push({ ...spec, layer, parent, inherit: true }, options)
      },
    })
  }

  static async of(image: Buffer): Promise<Guest> {
    const images = { memory: { stream: pieces(image) }, rootfs: { stream: pieces(image) } }
    const { id } = await small.store.push({ layer: 'os', images })
    const sizes = ['memory', 'rootfs'].map(name => ({ name, sizeBytes: image.length }))
    const overlay = await Overlay.create({ dir: join(small.dir, 'overlays'), name: `r${++runs}`, images: sizes })
    const [memory, rootfs] = [await overlay.image('memory', { written: false }), await overlay.image('rootfs', { written: true })]
    return new Guest(id, image, overlay, { memory, rootfs })
  }

  write(page: number, count: number, fill: number): void {
    this.memory.fill(fill, page * PAGE_BYTES, (page + count) * PAGE_BYTES)
    for (let at = page; at < page + count; at++) for (const pages of [this.#sinceSnapshot, this.#sinceDiff]) pages.add(at)
  }

  /** Its balloon: the VMM forgets the pages, whatever was written to them. */
  giveBack(page: number, count: number): void {
    this.memory.fill(0, page * PAGE_BYTES, (page + count) * PAGE_BYTES)
    for (let at = page; at < page + count; at++) for (const pages of [this.#sinceSnapshot, this.#sinceDiff]) pages.delete(at)
    this.#gave.zero(page, count)
  }

  writeDisk(page: number, count: number, fill: number): void {
    this.rootfs.fill(fill, page * PAGE_BYTES, (page + count) * PAGE_BYTES)
    if (fill === 0) this.#disk.zero(page, count)
    else this.#disk.write(page, Buffer.alloc(count * PAGE_BYTES, fill))
  }

  loseDisk(page: number): void {
    this.#disk.lose(page, 1)
  }

  async diff(since: 'snapshot' | 'diff'): Promise<string> {
    const path = join(small.dir, `diff-${this.#files++}`)
    await using file = await open(path, 'w')
    await file.truncate(this.memory.length)
    const pages = since === 'snapshot' ? this.#sinceSnapshot : this.#sinceDiff
    for (const page of pages) await file.write(this.memory, page * PAGE_BYTES, PAGE_BYTES, page * PAGE_BYTES)
    this.#sinceDiff.clear()
    return path
  }

  async full(): Promise<CommitOptions['images']> {
    this.#sinceDiff.clear()
    return { memory: { stream: pieces(Buffer.from(this.memory)) } }
  }

  async expectIs({ id }: PushResult): Promise<void> {
    await using child = await small.store.open(id)
    for (const name of ['memory', 'rootfs'] as const) {
      const found = await child.image(name).read(0, this.memory.length)
      expect(this[name].equals(found), name).toBe(true)
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#overlay.close()
  }
}

const unavailable = new ThawError('UNAVAILABLE', 'the store is down')

describe('commits in a row', () => {
  const pages = fc
    .nat(PAGES - 1)
    .chain(page => fc.record({ page: fc.constant(page), count: fc.integer({ min: 1, max: Math.min(90, PAGES - page) }) }))
  const step = fc.oneof(
    { weight: 3, arbitrary: fc.record({ kind: fc.constantFrom('write', 'disk'), pages, fill: fc.nat(255) }) },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('giveBack'), pages, fill: fc.constant(0) }) },
    { weight: 2, arbitrary: fc.record({ kind: fc.constantFrom('snapshot', 'last-commit', 'full', 'fails'), pages, fill: fc.constant(0) }) },
  )

  it('hold what the guest has, wherever the diffs begin (model)', async () => {
    const image = randomImage(PAGES)
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 4, maxLength: 16 }), async steps => {
        await using guest = await Guest.of(image)
        let last: string | undefined
        for (const { kind, pages, fill } of [...steps, { kind: 'last-commit', pages: { page: 0, count: 1 }, fill: 0 }]) {
          if (kind === 'write') guest.write(pages.page, pages.count, fill)
          else if (kind === 'giveBack') guest.giveBack(pages.page, pages.count)
          else if (kind === 'disk') guest.writeDisk(pages.page, pages.count, fill)
          else {
            const result = await commit(guest, kind, last)
            await guest.expectIs(result)
            last = result.id
          }
        }
      }),
      { numRuns: 25 },
    )
  })

  async function commit(guest: Guest, kind: string, last: string | undefined): Promise<PushResult> {
    if (kind === 'full') return await guest.commits.commit({ images: await guest.full() })
    if (kind === 'snapshot' || last === undefined) {
      const since = last === undefined ? 'diff' : 'snapshot'
      return await guest.commits.commit({
        diffs: { memory: await guest.diff(since) },
        diffBase: last === undefined ? undefined : 'snapshot',
      })
    }
    const options: CommitOptions = { diffs: { memory: await guest.diff('diff') }, diffBase: 'last-commit' }
    if (kind === 'fails') {
      guest.failure = unavailable
      expect(await codeOfAsync(() => guest.commits.commit(options))).toBe('UNAVAILABLE')
    }
    const result = await guest.commits.commit(options)
    expect(result.parent).toBe(last)
    return result
  }
})

describe('diffs', () => {
  let guest: Guest
  beforeEach(async () => {
    guest = await Guest.of(randomImage(20))
  })
  afterEach(() => guest[Symbol.asyncDispose]())

  it('of a second commit are refused until it is said where they begin', async () => {
    guest.write(0, 1, 1)
    const diffs = async () => ({ memory: await guest.diff('diff') })
    const begun = { diffs: await diffs() }
    await expect(guest.commits.commit({ ...begun, diffBase: 'last-commit' })).rejects.toThrow(RangeError)
    const first = await guest.commits.commit(begun)
    guest.write(1, 1, 2)
    const second = { diffs: await diffs() }
    await expect(guest.commits.commit(second)).rejects.toThrow(RangeError)
    await expect(guest.commits.commit({ ...second, diffBase: 'elsewhere' as never })).rejects.toThrow(RangeError)
    const result = await guest.commits.commit({ ...second, diffBase: 'last-commit' })
    expect(result.parent).toBe(first.id)
    await guest.expectIs(result)
  })

  it('of which the one before is missing are refused, until the image is taken whole', async () => {
    guest.write(0, 1, 1)
    const lost = { diffs: { memory: await guest.diff('diff') } }
    guest.failure = unavailable
    expect(await codeOfAsync(() => guest.commits.commit(lost))).toBe('UNAVAILABLE')
    guest.write(1, 1, 2)
    const next = { diffs: { memory: await guest.diff('diff') } }
    await expect(guest.commits.commit(next)).rejects.toThrow(RangeError)
    await guest.expectIs(await guest.commits.commit({ images: await guest.full() }))
    guest.failure = unavailable
    const again = { diffs: { memory: await guest.diff('diff') }, diffBase: 'last-commit' } as const
    expect(await codeOfAsync(() => guest.commits.commit(again))).toBe('UNAVAILABLE')
    await expect(guest.commits.commit({ ...next, diffBase: 'last-commit' })).rejects.toThrow(RangeError)
    await guest.expectIs(await guest.commits.commit(again))
  })

  it('of a commit that was refused before it looked at them are missing too', async () => {
    const another = async (page: number) => {
      guest.write(page, 1, page + 1)
      return { diffs: { memory: await guest.diff('diff') } }
    }
    const first = await another(0)
    const refused = [{ ...first, diffBase: 'last-commit' as const }, { diffs: { ...first.diffs, other: first.diffs.memory } }]
    for (const options of refused) await expect(guest.commits.commit(options)).rejects.toThrow(RangeError)
    const meanwhile = await another(1)
    const [committed, conflict] = await Promise.allSettled([first, meanwhile].map(options => guest.commits.commit(options)))
    expect([committed?.status, conflict]).toMatchObject(['fulfilled', { reason: { code: 'CONFLICT' } }])
    const third = await another(2)
    await expect(guest.commits.commit({ ...third, diffBase: 'last-commit' })).rejects.toThrow(RangeError)
    await guest.commits.commit({ ...meanwhile, diffBase: 'last-commit' })
    await guest.expectIs(await guest.commits.commit({ ...third, diffBase: 'last-commit' }))
  })

  it('that are not there, or of another size, were given by mistake', async () => {
    const short = join(small.dir, 'short')
    await writeFile(short, 'short')
    for (const memory of [join(small.dir, 'nowhere'), short]) await expect(guest.commits.commit({ diffs: { memory } })).rejects.toThrow()
    guest.write(0, 1, 1)
    await guest.expectIs(await guest.commits.commit({ diffs: { memory: await guest.diff('diff') } }))
  })

  it('that begin at the last commit do not lie over what it took whole, nor over what a front end wrote', async () => {
    await guest.commits.commit({ diffs: { memory: await guest.diff('diff') }, images: { rootfs: { stream: pieces(guest.rootfs) } } })
    guest.writeDisk(3, 1, 7)
    const incremental = async (name: string) => ({ diffs: { [name]: await guest.diff('diff') }, diffBase: 'last-commit' }) as const
    await expect(guest.commits.commit(await incremental('memory'))).rejects.toThrow(RangeError)
    const { diffs, diffBase } = await incremental('memory')
    const both = { diffs: { ...diffs, rootfs: diffs.memory! }, diffBase }
    await expect(guest.commits.commit(both)).rejects.toThrow(RangeError)
  })
})

describe('a commit', () => {
  let guest: Guest
  beforeEach(async () => {
    guest = await Guest.of(randomImage(20))
  })
  afterEach(() => guest[Symbol.asyncDispose]())
  const whole = async () => ({ images: await guest.full() })

  it('of an image that lost a write is CORRUPT for good, also if the page was written again', async () => {
    await guest.commits.commit(await whole())
    guest.loseDisk(4)
    for (let i = 0; i < 2; i++) {
      const refused = guest.commits.commit(await whole())
      await expect(refused).rejects.toMatchObject({ code: 'CORRUPT', object: 'rootfs', message: expect.stringMatching(/page 4\b/) })
    }
    guest.writeDisk(4, 1, 9)
    expect(await codeOfAsync(async () => guest.commits.commit(await whole()))).toBe('CORRUPT')
  })

  it('during which a write is lost is CORRUPT', async () => {
    guest.onPush = () => guest.loseDisk(2)
    expect(await codeOfAsync(async () => guest.commits.commit(await whole()))).toBe('CORRUPT')
  })

  it('looks at all images from before it reads the first one until it has read the last one', async () => {
    guest.onPush = () => guest.writeDisk(2, 1, 3)
    const before = guest.flushes
    expect(await codeOfAsync(async () => guest.commits.commit(await whole()))).toBe('CONFLICT')
    expect(guest.flushes).toBe(before + 2)
    guest.onPush = () => guest.giveBack(2, 1)
    expect(await codeOfAsync(async () => guest.commits.commit({ diffs: { memory: await guest.diff('diff') } }))).toBe('CONFLICT')
  })

  it('refuses another one meanwhile, and goes on', async () => {
    const [first, second] = await Promise.allSettled([guest.commits.commit(await whole()), guest.commits.commit({})])
    expect(second).toMatchObject({ reason: { code: 'CONFLICT' } })
    expect(first.status).toBe('fulfilled')
    await guest.commits.ended()
    await guest.commits.commit(await whole())
  })
})
