/** Memory served by userfaultfd to a stand-in VMM that checks every page: regions, page sizes, pages given back, several guests, a busy main thread. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { randomImage } from '../small-store.ts'
import { MemoryStore, type OpenMemory } from '../uffd/serving.ts'
import { hugePages } from '../uffd/vmm.ts'

const PAGE = 4096
const HUGE = 2_097_152
const IMAGE_PAGES = 8192
/** More than its chunks take up: what is read once is in memory from then on. */
const MEMORY_BYTES = 64 * 2 ** 20
const BUSY_MS = 3000

let memory: MemoryStore
let open: OpenMemory

beforeAll(async () => {
  memory = await MemoryStore.of(randomImage(IMAGE_PAGES))
  open = await memory.open({ memoryBytes: MEMORY_BYTES })
})

afterAll(async () => {
  await open[Symbol.asyncDispose]()
  await memory[Symbol.asyncDispose]()
})

const ALL_RIGHT = expect.objectContaining({ wrong: 0 })

describe('a VMM', () => {
  it('reads every page right, and ends with its pager', async () => {
    await using served = await open.serve()
    await using vmm = await open.vmm(served)
    expect(await vmm.verifyAll()).toEqual({ pages: IMAGE_PAGES, wrong: 0 })
    await vmm.exit()
    expect(await served.pager.closed).toEqual({ reason: 'vmm-exit', pid: vmm.pid })
    expect(served.events.map(({ kind }) => kind)).toEqual(['connected', 'disconnected', 'closed'])
  })

  it.each(['both', 'page_size', 'page_size_kib'] as const)('is understood with the fields %s', async fields => {
    await using served = await open.serve()
    await using vmm = await open.vmm(served, { fields, extraFields: true, delivery: 'split', descriptors: 7 })
    expect(await vmm.verify(0, 100, 200)).toEqual(ALL_RIGHT)
  })

  it('has its memory in several regions, one of them plugged later', async () => {
    await using served = await open.serve()
    const half = (IMAGE_PAGES / 2) * PAGE
    const regions = [
      { sizeBytes: half, offsetBytes: half },
      { sizeBytes: half / 2, offsetBytes: 0 },
      { sizeBytes: half / 2, offsetBytes: half / 2, plugged: false },
    ]
    await using vmm = await open.vmm(served, { regions })
    expect(await vmm.verifyAll()).toEqual({ pages: (IMAGE_PAGES / 4) * 3, wrong: 0 })
    await vmm.plug(2)
    expect(await vmm.verifyAll()).toEqual({ pages: IMAGE_PAGES, wrong: 0 })
  })

  it('whose userfaultfd blocks is served like others', async () => {
    await using served = await open.serve()
    await using vmm = await open.vmm(served, { blocking: true })
    expect(await vmm.verifyAll()).toEqual(ALL_RIGHT)
  })

  it('may close its connection, and is served on', async () => {
    await using served = await open.serve()
    await using vmm = await open.vmm(served)
    await vmm.closeSocket()
    expect(await vmm.verifyAll()).toEqual(ALL_RIGHT)
  })

  it('that dies with faults outstanding ends its pager', async () => {
    await using served = await open.serve()
    await using vmm = await open.vmm(served)
    await vmm.die(100, 8)
    expect(await served.pager.closed).toEqual({ reason: 'vmm-exit', pid: vmm.pid })
  })

  it.each([0, 7, 127])('reads right with %i neighbours', async neighbours => {
    await using served = await open.serve({ neighbours })
    await using vmm = await open.vmm(served)
    expect(await vmm.touchRandom({ count: 3000, seed: 5, threads: 4 })).toEqual(ALL_RIGHT)
    expect(await vmm.storm({ seconds: 1, readers: 3 })).toEqual(ALL_RIGHT)
    expect(await vmm.verifyAll()).toEqual(ALL_RIGHT)
  })

  it('is served from an arena that holds a few chunks only', async () => {
    await using small = await memory.open({ memoryBytes: 0 })
    await using served = await small.serve()
    await using vmm = await small.vmm(served)
    expect(await vmm.touchRandom({ count: 2000, seed: 9, threads: 8 })).toEqual(ALL_RIGHT)
    expect(await vmm.verifyAll()).toEqual(ALL_RIGHT)
  })
})

describe('pages given back', () => {
  it('are zero, and may be written again', async () => {
    await using served = await open.serve()
    await using vmm = await open.vmm(served)
    await vmm.verify(0, 0, 64)
    await vmm.remove(0, 10, 100)
    expect(await vmm.verifyAll()).toEqual(ALL_RIGHT)
    await vmm.write(0, 20, 7, 3)
    await vmm.remove(0, 21, 1)
    expect(await vmm.verifyAll()).toEqual(ALL_RIGHT)
  })

  it('are right while others read them', async () => {
    await using served = await open.serve({ neighbours: 16 })
    await using vmm = await open.vmm(served)
    for (let from = 0; from < 2000; from += 200) expect(await vmm.removeUnderReaders(0, from, 150, 3)).toEqual(ALL_RIGHT)
    expect(await vmm.storm({ seconds: 3, readers: 3 })).toEqual(ALL_RIGHT)
    expect(await vmm.verifyAll()).toEqual(ALL_RIGHT)
  })
})

describe('huge pages', () => {
  const HUGE_PAGES = (IMAGE_PAGES * PAGE) / HUGE

  it('are put together from their chunks', async () => {
    await using _ = await hugePages(HUGE_PAGES + 1)
    await using small = await memory.open({ memoryBytes: 0 })
    await using served = await small.serve()
    const regions = [{ sizeBytes: IMAGE_PAGES * PAGE, offsetBytes: 0, pageBytes: HUGE } as const]
    await using vmm = await small.vmm(served, { regions })
    expect(await vmm.touchRandom({ count: 500, seed: 2, threads: 8 })).toEqual(ALL_RIGHT)
    await vmm.remove(0, 512, 1024)
    expect(await vmm.verifyAll()).toEqual({ pages: IMAGE_PAGES, wrong: 0 })
    expect(await vmm.removeUnderReaders(0, 4096, 512, 2)).toEqual(ALL_RIGHT)
    await vmm.exit()
  })

  it('stand beside small ones', async () => {
    await using _ = await hugePages(5)
    await using served = await open.serve()
    const regions = [
      { sizeBytes: 4 * HUGE, offsetBytes: 0, pageBytes: HUGE },
      { sizeBytes: 4 * HUGE, offsetBytes: 4 * HUGE },
    ] as const
    await using vmm = await open.vmm(served, { regions })
    expect(await vmm.storm({ seconds: 1, readers: 2 })).toEqual(ALL_RIGHT)
    expect(await vmm.verifyAll()).toEqual(ALL_RIGHT)
    await vmm.exit()
  })
})

describe('several guests', () => {
  it('of one cache are each served by a restore of its own', async () => {
    const all = await Promise.all(
      [1, 2, 3].map(async () => {
        const served = await open.serve()
        return { served, vmm: await open.vmm(served) }
      }),
    )
    await Promise.all(all.map(({ vmm }, index) => vmm.write(0, 100 * index, index + 1, 50)))
    expect(await Promise.all(all.map(({ vmm }) => vmm.verifyAll()))).toEqual([ALL_RIGHT, ALL_RIGHT, ALL_RIGHT])
    await all[0]!.served.restore.close()
    expect(await all[0]!.vmm.ended()).toEqual({ code: null, signal: 'SIGKILL' })
    expect(await all[1]!.vmm.verifyAll()).toEqual(ALL_RIGHT)
    for (const { served } of all) await served[Symbol.asyncDispose]()
  })
})

describe('a main thread that is busy', () => {
  it('holds up no page', async () => {
    await using served = await open.serve()
    await using vmm = await open.vmm(served)
    await vmm.verify(0, 0, 10)
    const answered = vmm.storm({ seconds: 1, readers: 2 })
    // Its command has to be on its way before nothing is any more.
    await new Promise(resolve => setImmediate(resolve))
    const before = served.restore.figures().images[0]!.hits
    const until = performance.now() + BUSY_MS
    while (performance.now() < until);
    expect(served.restore.figures().images[0]!.hits).toBeGreaterThan(before + 100)
    expect(await answered).toEqual(ALL_RIGHT)
  })
})

describe('a VMM that is stopped now and then', () => {
  it('goes on where it was, also in the middle of a removal', async () => {
    await using served = await open.serve()
    await using vmm = await open.vmm(served)
    const raced = vmm.storm({ seconds: 2, readers: 3 })
    for (let i = 0; i < 8; i++) {
      process.kill(vmm.pid, 'SIGSTOP')
      await sleep(100)
      process.kill(vmm.pid, 'SIGCONT')
      await sleep(50)
    }
    expect(await raced).toEqual(ALL_RIGHT)
    expect(await vmm.verifyAll()).toEqual(ALL_RIGHT)
  })
})

describe('what is counted', () => {
  it('tells faults that found their page from those that waited, and where chunks came from', async () => {
    await using fresh = await memory.open({ memoryBytes: MEMORY_BYTES })
    await using served = await fresh.serve()
    await using vmm = await fresh.vmm(served)
    await vmm.verifyAll()
    const [figures] = served.restore.figures().images
    expect(figures).toMatchObject({ failures: 0, chunks: { disk: 0, l2: 0 } })
    expect(figures!.misses).toBeGreaterThanOrEqual(figures!.chunks.origin)
    expect(figures!.chunks.origin).toBeGreaterThan(0)
    expect(figures!.hits).toBeGreaterThan(0)
  })
})

describe('closing', () => {
  it('ends a VMM that is served', async () => {
    await using served = await open.serve()
    await using vmm = await open.vmm(served)
    await vmm.verify(0, 0, 10)
    await served.pager.close()
    expect(await vmm.ended()).toEqual({ code: null, signal: 'SIGKILL' })
    expect(await served.pager.closed).toEqual({ reason: 'closed' })
    await served.pager.close()
  })

  it('is possible before anybody came', async () => {
    await using served = await open.serve()
    await served.pager.close()
    expect(await served.pager.closed).toEqual({ reason: 'closed' })
    await expect(open.vmm(served)).rejects.toThrow()
  })
})
