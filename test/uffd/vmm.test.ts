/**
 * The stand-in VMM against the plain C handler: that it says what Firecracker says, does what its commands promise, and above all that it notices wrong pages.
 * What thaw's own server makes of it, honest or hostile, is tested with that server.
 */
import { once } from 'node:events'
import { chmod, mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { loadNative } from '../../src/util/native.ts'
import { type Handler, hugePages, STAMPED_BYTES, startHandler, startVmm, type Vmm, type VmmOptions, type VmmRegion } from './vmm.ts'

const PAGE = 4096
const MIB = 2 ** 20
const HUGE = 2 * MIB
const REGION_PAGES = HUGE / PAGE
const SEEK_DATA = 3
const SEEK_HOLE = 4

/** Out of order in the file, with a third that is not plugged. */
const REGIONS: readonly VmmRegion[] = [
  { sizeBytes: HUGE, offsetBytes: HUGE },
  { sizeBytes: HUGE, offsetBytes: 0 },
  { sizeBytes: HUGE, offsetBytes: 2 * HUGE, plugged: false },
]

let folder: string
let image: string
let sockets = 0

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'thaw-vmm-'))
  image = join(folder, 'image')
  await writeFile(image, imageBytes())
})

afterAll(() => rm(folder, { recursive: true, force: true }))

/** Every page differs from every other; every fourth is zero. */
function imageBytes(): Buffer {
  const bytes = Buffer.alloc(3 * HUGE)
  for (let page = 0; page < bytes.length / PAGE; page++) {
    if (page % 4 !== 3) for (let at = 0; at < PAGE; at += 8) bytes.writeBigUInt64LE(BigInt(page * PAGE + at + 1), page * PAGE + at)
  }
  return bytes
}

function freshSocket(): string {
  return join(folder, `${++sockets}.sock`)
}

type Pair = AsyncDisposable & { readonly vmm: Vmm; readonly handler: Handler }

/** A VMM and its handler, which serves `served` in place of the image. */
async function startPair(options: Partial<VmmOptions> = {}, served: string = image): Promise<Pair> {
  const socket = freshSocket()
  const handler = await startHandler({ socket, image: served })
  try {
    const vmm = await startVmm({ socket, image, regions: REGIONS, ...options })
    const dispose = async (): Promise<void> => {
      await vmm[Symbol.asyncDispose]()
      await handler[Symbol.asyncDispose]()
    }
    return { vmm, handler, [Symbol.asyncDispose]: dispose }
  } catch (error) {
    await handler[Symbol.asyncDispose]()
    throw error
  }
}

/** As for a VMM in a jail of its own user. */
async function openToAll(socket: string): Promise<void> {
  await chmod(folder, 0o755)
  await chmod(socket, 0o777)
}

/** What a VMM sends to a server that says nothing, until it ends. */
async function sentBy(options: Partial<VmmOptions>): Promise<string> {
  const socket = freshSocket()
  const server = createServer().listen(socket)
  await once(server, 'listening')
  await openToAll(socket)
  const received = new Promise<string>(resolve =>
    server.once('connection', async connection => resolve(Buffer.concat(await connection.toArray()).toString('latin1'))),
  )
  await using vmm = await startVmm({ socket, image, regions: REGIONS, ...options })
  await vmm.exit()
  const sent = await received
  await new Promise(resolve => server.close(resolve))
  return sent
}

/** The parts of a file that hold data, as page ranges [from, to). */
async function dataRanges(file: string): Promise<[number, number][]> {
  const native = await loadNative('this test')
  const handle = await open(file)
  try {
    const ranges: [number, number][] = []
    for (let at = native.lseek(handle.fd, 0, SEEK_DATA); at >= 0; at = native.lseek(handle.fd, at, SEEK_DATA)) {
      const end = native.lseek(handle.fd, at, SEEK_HOLE)
      ranges.push([at / PAGE, end / PAGE])
      at = end
    }
    return ranges
  } finally {
    await handle.close()
  }
}

describe('the handshake', () => {
  it.each([
    ['both', ['page_size', 'page_size_kib']],
    ['page_size', ['page_size']],
    ['page_size_kib', ['page_size_kib']],
  ] as const)('spells the page size, %s, as Firecracker does', async (fields, names) => {
    const regions = JSON.parse(await sentBy({ fields }))
    expect(regions.map((region: object) => Object.keys(region))).toEqual(
      REGIONS.map(() => ['base_host_virt_addr', 'size', 'offset', ...names]),
    )
    expect(regions.map((region: Record<string, number>) => names.map(name => region[name]))).toEqual(
      REGIONS.map(() => names.map(() => PAGE)),
    )
    expect(regions.map((region: { size: number; offset: number }) => [region.size, region.offset])).toEqual(
      REGIONS.map(({ sizeBytes, offsetBytes }) => [sizeBytes, offsetBytes]),
    )
    for (const { base_host_virt_addr: base } of regions) expect(base % HUGE).toBe(0)
  })

  it('can have fields nobody knows', async () => {
    for (const region of JSON.parse(await sentBy({ extraFields: true }))) expect(Object.keys(region)).toContain('numa_node')
  })

  it('is the same in two parts, and half of it is no JSON', async () => {
    expect(JSON.parse(await sentBy({ delivery: 'split' }))).toHaveLength(3)
    expect(JSON.parse(await sentBy({ delivery: 'late-descriptor' }))).toHaveLength(3)
    const half = await sentBy({ delivery: 'truncated' })
    expect(() => JSON.parse(half)).toThrow(SyntaxError)
  })

  it('can be no handshake at all', async () => {
    expect(await sentBy({ delivery: 'silent' })).toBe('')
    expect(await sentBy({ delivery: 'empty' })).toBe('[]')
    expect((await sentBy({ delivery: 'garbage' })).length).toBe(256)
    expect((await sentBy({ delivery: 'oversized' })).length).toBeGreaterThan(MIB)
  })

  it('can lie', async () => {
    expect(JSON.parse(await sentBy({ lie: 'overlap' }))).toHaveLength(4)
    expect(JSON.parse(await sentBy({ lie: 'base-unaligned' }))[0].base_host_virt_addr % PAGE).toBe(1)
    expect(JSON.parse(await sentBy({ lie: 'size-beyond-image' }))[0].size).toBe(HUGE + 2 ** 40)
    expect(JSON.parse(await sentBy({ lie: 'page-size-odd' }))[0].page_size).toBe(PAGE + 1)
  })

  it.each([
    { blocking: true },
    { unregistered: true },
    { otherDescriptor: true },
    { descriptors: 0 },
    { events: 'all' },
    { events: 'none' },
    { uid: 65_534 },
  ] as const)('is the same with %j', async option => {
    expect(JSON.parse(await sentBy(option))).toHaveLength(3)
  })

  it('is sent on every connection', async () => {
    const socket = freshSocket()
    const server = createServer().listen(socket)
    await once(server, 'listening')
    const sent: string[] = []
    const closed = Promise.withResolvers<void>()
    server.on('connection', async connection => {
      sent.push(Buffer.concat(await connection.toArray()).toString('latin1'))
      if (sent.length === 3) closed.resolve()
    })
    await using vmm = await startVmm({ socket, image, regions: REGIONS, connections: 3 })
    await vmm.exit()
    await closed.promise
    await new Promise(resolve => server.close(resolve))
    expect(new Set(sent).size).toBe(1)
  })

  it.each([2, 200])('with %i descriptors has the userfaultfd first', async descriptors => {
    await using pair = await startPair({ descriptors })
    expect(await pair.vmm.verify(0, 0, 8)).toEqual({ pages: 8, wrong: 0 })
  })
})

describe('memory', () => {
  it('holds the image, in every plugged region', async () => {
    await using pair = await startPair()
    expect(await pair.vmm.verifyAll()).toEqual({ pages: 2 * REGION_PAGES, wrong: 0 })
    await expect(pair.vmm.read(2, 0)).rejects.toThrow()
    await pair.vmm.plug(2)
    expect(await pair.vmm.verifyAll()).toEqual({ pages: 3 * REGION_PAGES, wrong: 0 })
  })

  it('that is not the image is noticed', async () => {
    const other = join(folder, 'other')
    const bytes = imageBytes()
    bytes[77 * PAGE + 4095]! ^= 1
    bytes[99 * PAGE]! ^= 1
    await writeFile(other, bytes)
    await using pair = await startPair({}, other)
    expect(await pair.vmm.verifyAll()).toEqual({ pages: 2 * REGION_PAGES, wrong: 2, first: { region: 1, page: 77 } })
    expect(await pair.vmm.read(1, 99)).toMatchObject({ first: bytes.subarray(99 * PAGE, 99 * PAGE + 16).toString('hex'), right: false })
    expect(pair.vmm.stderr).not.toBe('')
  })

  it('past the end of the image is zero', async () => {
    const short = join(folder, 'short')
    await writeFile(short, imageBytes().subarray(0, 2 * HUGE - PAGE - 100))
    await using pair = await startPair({ image: short })
    expect(await pair.vmm.verifyAll()).toMatchObject({ wrong: 1, first: { region: 0, page: REGION_PAGES - 2 } })
  })

  it('is touched at random, each page once', async () => {
    await using pair = await startPair()
    const first = await pair.vmm.touchRandom({ count: 900, seed: 1, threads: 3 })
    expect(first).toMatchObject({ touched: 900, faults: 900, wrong: 0 })
    const times = [first.p50, first.p90, first.p99, first.p999, first.max]
    expect(times).toEqual(times.toSorted((a, b) => a - b))
    expect(await pair.vmm.touchRandom({ count: 900, seed: 2 })).toMatchObject({ touched: 2 * REGION_PAGES - 900, wrong: 0 })
    await expect(pair.vmm.touchRandom({ count: 1, seed: 3 })).rejects.toThrow()
  })

  it('that is removed is zero, and what is written stays', async () => {
    await using pair = await startPair()
    await pair.vmm.write(0, 4, 0xab)
    await pair.vmm.remove(0, 8, 100)
    await pair.vmm.write(0, 10, 0xcd, 3)
    expect((await pair.vmm.read(0, 4)).first).toBe('ab'.repeat(16))
    expect((await pair.vmm.read(0, 9)).first).toBe('00'.repeat(16))
    expect(await pair.vmm.verifyAll()).toEqual({ pages: 2 * REGION_PAGES, wrong: 0 })
    expect(await pair.vmm.removeUnderReaders(1, 100, 64, 3)).toMatchObject({ wrong: 0 })
    expect(await pair.vmm.verifyAll()).toEqual({ pages: 2 * REGION_PAGES, wrong: 0 })
  })

  it('survives a storm', async () => {
    await using pair = await startPair()
    const { reads, wrong } = await pair.vmm.storm({ seconds: 2, readers: 3, seed: 7 })
    expect(pair.vmm.stderr).toBe('')
    expect(wrong).toBe(0)
    expect(reads).toBeGreaterThan(0)
    expect(await pair.vmm.verifyAll()).toEqual({ pages: 2 * REGION_PAGES, wrong: 0 })
  })

  it('without news of removals comes back, which is noticed', async () => {
    await using pair = await startPair({ events: 'none' })
    await pair.vmm.remove(0, 0, 4)
    expect(await pair.vmm.verify(0, 0, 4)).toEqual({ pages: 4, wrong: 3, first: { region: 0, page: 0 } })
  })

  it('comes in huge pages too', async () => {
    await using _reserved = await hugePages(3)
    await using pair = await startPair({ regions: REGIONS.slice(0, 2).map(region => ({ ...region, pageBytes: 2_097_152 as const })) })
    expect(await pair.vmm.verifyAll()).toEqual({ pages: 2 * REGION_PAGES, wrong: 0 })
    await expect(pair.vmm.remove(1, 8, 8)).rejects.toThrow()
    await pair.vmm.remove(1, 0, REGION_PAGES)
    await pair.vmm.write(1, 9, 0x55)
    expect(await pair.vmm.verifyAll()).toEqual({ pages: 2 * REGION_PAGES, wrong: 0 })
    expect(await pair.vmm.storm({ seconds: 1, readers: 2 })).toMatchObject({ wrong: 0 })
  })

  it('that is poisoned is a SIGBUS', async () => {
    await using pair = await startPair()
    await pair.vmm.poison(0, 5)
    expect(await pair.vmm.expectBus(0, 5)).not.toBe(0)
    expect(await pair.vmm.expectBus(0, 6)).toBe(0)
    await expect(pair.vmm.read(0, 5)).rejects.toThrow()
    expect(await pair.vmm.ended()).toEqual({ code: null, signal: 'SIGBUS' })
  })
})

describe('a snapshot', () => {
  it('of what was written has data there and holes elsewhere', async () => {
    await using pair = await startPair()
    const file = join(folder, 'written')
    await pair.vmm.verifyAll()
    await pair.vmm.write(0, 10, 0x11, 2)
    await pair.vmm.write(1, 20, 0x22)
    await pair.vmm.write(1, 30, 0x33)
    await pair.vmm.remove(1, 30, 8)
    expect(await pair.vmm.diff(file, 'written')).toBe(4)
    const written = REGION_PAGES + 10
    expect(await dataRanges(file)).toEqual([
      [20, 21],
      [30, 31],
      [written, written + 2],
    ])
    const [diff, expected] = [await readFile(file), imageBytes()]
    expected.fill(0x11, written * PAGE, written * PAGE + STAMPED_BYTES)
    expect(diff.length).toBe(3 * HUGE)
    expect(diff.subarray(written * PAGE, (written + 1) * PAGE).equals(expected.subarray(written * PAGE, (written + 1) * PAGE))).toBe(true)
    expect(diff.subarray(30 * PAGE, 31 * PAGE).equals(Buffer.alloc(PAGE))).toBe(true)
  })

  it('of what is in memory has what was read, and not what was given back', async () => {
    await using pair = await startPair()
    const file = join(folder, 'resident')
    await pair.vmm.verify(1, 0, 16)
    await pair.vmm.remove(1, 4, 4)
    await pair.vmm.read(1, 5)
    expect(await pair.vmm.diff(file, 'resident')).toBe(13)
    expect(await dataRanges(file)).toEqual([
      [0, 4],
      [5, 6],
      [8, 16],
    ])
  })

  it('can be whole', async () => {
    await using pair = await startPair()
    const file = join(folder, 'full')
    const expected = imageBytes()
    await pair.vmm.write(1, 3, 0x77)
    expected.fill(0x77, 3 * PAGE, 3 * PAGE + STAMPED_BYTES)
    expected.fill(0, 2 * HUGE)
    expect(await pair.vmm.diff(file, 'full')).toBe(2 * REGION_PAGES)
    expect((await readFile(file)).equals(expected)).toBe(true)
  })
})

describe('the end', () => {
  it('comes when it is told, and its handler sees it', async () => {
    await using pair = await startPair()
    expect(await pair.vmm.exit(3)).toEqual({ code: 3, signal: null })
    expect(await pair.handler.exited).toEqual({ code: 0, signal: null })
  })

  it('of a child that it forked is not its own', async () => {
    await using pair = await startPair()
    await pair.vmm.fork(2)
    await pair.vmm.unmap(0, 0, 8)
    expect(await pair.vmm.verify(0, 8, 8)).toEqual({ pages: 8, wrong: 0 })
  })

  it('can come in the middle of faults', async () => {
    await using pair = await startPair()
    expect(await pair.vmm.die(500, 4)).toEqual({ code: 0, signal: null })
    expect(await pair.handler.exited).toEqual({ code: 0, signal: null })
  })

  it('of the connection ends the handler; then a page never comes', async () => {
    await using pair = await startPair()
    await pair.vmm.closeSocket()
    expect(await pair.handler.exited).toEqual({ code: 0, signal: null })
    await pair.vmm.hang(0, 0)
    await expect(pair.vmm.ended(100)).rejects.toThrow()
  })

  it('of the handler is a hang-up', async () => {
    await using pair = await startPair()
    expect(await pair.vmm.awaitHangup(0)).toBe(false)
    await pair.handler[Symbol.asyncDispose]()
    expect(await pair.vmm.awaitHangup(10_000)).toBe(true)
  })

  it('is at once where nobody listens', async () => {
    await expect(startVmm({ socket: freshSocket(), image, regions: REGIONS })).rejects.toThrow()
  })
})
