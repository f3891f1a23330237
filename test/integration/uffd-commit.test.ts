/**
 * Memory from a push to a commit and on to the commit's child, all within the library: served by userfaultfd to stand-in VMMs that read, write, give pages back and write their diff
 * snapshots. What a child must hold is what the VMM itself says its memory is, byte by byte: its full snapshot, taken right after the diff.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type DiffBase, openStore, type PushResult, serveUffd } from '../../src/index.ts'
import { codeOfAsync } from '../code-of.ts'
import { randomImage } from '../small-store.ts'
import { MemoryStore, type OpenMemory, type Served } from '../uffd/serving.ts'
import { hugePages, startVmm, type Vmm, type VmmRegion } from '../uffd/vmm.ts'
import { nothingIsLeftOf } from './leftovers.ts'

const PAGE = 4096
const HUGE = 2_097_152
const HUGE_COUNT = 8
const IMAGE_PAGES = (HUGE_COUNT * HUGE) / PAGE
const HUGE_PAGE_PAGES = HUGE / PAGE
const MEMORY_BYTES = 64 * 2 ** 20

let memory: MemoryStore
let open: OpenMemory
let commits = 0

beforeAll(async () => {
  memory = await MemoryStore.of(randomImage(IMAGE_PAGES))
  open = await memory.open({ memoryBytes: MEMORY_BYTES })
})

afterAll(async () => {
  await open?.[Symbol.asyncDispose]()
  await memory?.[Symbol.asyncDispose]()
})

interface Committed {
  readonly result: PushResult
  /** A file with what the VMM's memory was. */
  readonly file: string
  readonly image: Buffer
}

/** Has the VMM write its diff snapshot, then a full one, and commits the diff. */
async function commit({ restore }: Served, vmm: Vmm, which: 'written' | 'resident', diffBase?: DiffBase): Promise<Committed> {
  const file = join(memory.small.dir, `full-${++commits}`)
  const diff = join(memory.small.dir, `diff-${commits}`)
  await vmm.diff(diff, which)
  await vmm.diff(file, 'full')
  const result = await restore.commit({ diffs: { memory: diff }, diffBase })
  return { result, file, image: await readFile(file) }
}

/** Every byte of a snapshot's memory, through a reader that has seen nothing of it. */
async function pulled(id: string): Promise<Buffer> {
  await using store = await openStore(memory.small.url, { keyring: memory.small.keyring })
  await using snapshot = await store.open(id)
  const dir = join(memory.small.dir, `pulled-${id}`)
  await snapshot.pull(dir)
  return await readFile(join(dir, 'memory'))
}

async function expectChild({ result, image }: Committed): Promise<void> {
  expect((await pulled(result.id)).equals(image)).toBe(true)
  expect(await memory.small.store.verify(result.id)).toMatchObject({ opened: true, bad: [] })
}

/** Pages written, given back, given back and written or read again, written and given back; at ends, and across ranges and packs. */
async function live(vmm: Vmm, region: number, pages: number, stamp: number): Promise<void> {
  await vmm.write(region, 0, stamp)
  await vmm.write(region, 100, stamp + 1, 90)
  await vmm.write(region, pages - 1, stamp + 2)
  await vmm.remove(region, 300, 40)
  await vmm.write(region, 310, stamp + 3, 5)
  await vmm.verify(region, 320, 5)
  await vmm.write(region, 400, stamp + 4, 20)
  await vmm.remove(region, 405, 10)
  await vmm.remove(region, pages - 70, 60)
}

const ALL_RIGHT = expect.objectContaining({ wrong: 0 })

describe('a commit holds what the VMM says its memory is', () => {
  it.each(['written', 'resident'] as const)('of which its diff has the pages %s', async which => {
    await using served = await open.serve()
    const half = (IMAGE_PAGES / 2) * PAGE
    const regions = [
      { sizeBytes: half, offsetBytes: half },
      { sizeBytes: half, offsetBytes: 0 },
    ]
    await using vmm = await open.vmm(served, { regions })
    if (which === 'written') expect(await vmm.verifyAll()).toEqual({ pages: IMAGE_PAGES, wrong: 0 })
    else await vmm.touchRandom({ count: 1000, seed: 3 })
    for (const [region, stamp] of [
      [0, 0x10],
      [1, 0x20],
    ] as const)
      await live(vmm, region, IMAGE_PAGES / 2, stamp)
    const child = await commit(served, vmm, which)
    expect(await vmm.verifyAll()).toEqual(ALL_RIGHT)
    await expectChild(child)
    // What was read, and is as in the parent, is not stored again: in each half 107 pages were written and not given back.
    expect(child.result.counts.ownBytes).toBe(2 * 107 * PAGE)
    expect(child.result.parent).toBe(memory.id)
  })

  it('of huge pages, given back whole', async () => {
    await using _ = await hugePages(HUGE_COUNT + 1)
    for (const which of ['written', 'resident'] as const) {
      await using served = await open.serve()
      const regions: readonly VmmRegion[] = [{ sizeBytes: HUGE_COUNT * HUGE, offsetBytes: 0, pageBytes: HUGE }]
      await using vmm = await open.vmm(served, { regions })
      await vmm.verify(0, 0, 2 * HUGE_PAGE_PAGES)
      await vmm.write(0, 7, 0x31, 3)
      await vmm.write(0, 3 * HUGE_PAGE_PAGES - 1, 0x32, 2)
      await vmm.remove(0, HUGE_PAGE_PAGES, HUGE_PAGE_PAGES)
      await vmm.remove(0, 4 * HUGE_PAGE_PAGES, 2 * HUGE_PAGE_PAGES)
      await vmm.write(0, 5 * HUGE_PAGE_PAGES + 9, 0x33)
      await expectChild(await commit(served, vmm, which))
      await vmm.exit()
      await served.pager.closed
    }
  })

  it('again after it went on, and as often as one likes', async () => {
    await using served = await open.serve()
    await using vmm = await open.vmm(served)
    await live(vmm, 0, IMAGE_PAGES, 0x40)
    await expectChild(await commit(served, vmm, 'written'))
    await vmm.write(0, 302, 0x50, 50)
    await vmm.remove(0, 0, 128)
    await expectChild(await commit(served, vmm, 'written', 'snapshot'))
  })

  it('and has no other way to know it', async () => {
    await using served = await open.serve()
    await using vmm = await open.vmm(served)
    await vmm.write(0, 0, 0x60)
    expect(await codeOfAsync(() => served.restore.commit())).toBe('RangeError')
  })
})

describe('two VMMs at once', () => {
  it('are committed each as it is, and a child is served and committed in turn', async () => {
    const pair = await Promise.all(
      [0x70, 0x80].map(async stamp => {
        const served = await open.serve()
        const vmm = await open.vmm(served)
        await live(vmm, 0, IMAGE_PAGES, stamp)
        return { served, vmm }
      }),
    )
    const children = await Promise.all(pair.map(({ served, vmm }) => commit(served, vmm, 'written')))
    for (const { vmm } of pair) expect(await vmm.verifyAll()).toEqual(ALL_RIGHT)
    for (const { served } of pair) await served[Symbol.asyncDispose]()
    const [one, two] = children
    expect(one!.image.equals(two!.image)).toBe(false)
    for (const child of children) await expectChild(child)
    expect((await pulled(memory.id)).equals(memory.image)).toBe(true)
    await serveAndCommitChild(one!)
  })

  async function serveAndCommitChild({ result: { id }, file, image }: Committed): Promise<void> {
    await using store = await openStore(memory.small.url, { keyring: memory.small.keyring, cache: open.cache })
    await using snapshot = await store.open(id)
    await using restore = await snapshot.restore({ overlay: { dir: join(memory.small.dir, 'overlays') } })
    const pager = await serveUffd(restore, 'memory', { socket: memory.socket() })
    await using vmm = await startVmm({ socket: pager.socket, image: file, regions: [{ sizeBytes: image.length, offsetBytes: 0 }] })
    expect(await vmm.verifyAll()).toEqual({ pages: IMAGE_PAGES, wrong: 0 })
    await vmm.write(0, 20, 0x90, 3)
    await vmm.remove(0, 100, 10)
    const grandchild = await commit({ restore, pager, events: [], [Symbol.asyncDispose]: () => restore.close() }, vmm, 'written')
    expect(grandchild.result.parent).toBe(id)
    await expectChild(grandchild)
  }
})

describe('the end', () => {
  it('leaves nothing', async () => {
    await nothingIsLeftOf(memory.small.dir)
  })
})
