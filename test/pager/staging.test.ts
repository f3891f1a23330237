/** Reads that wait, of several tenants on one pager: what they hold meanwhile, and until when. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { Arena, ArenaWriter } from '../../src/arena.ts'
import { PAGE_BYTES } from '../../src/chunk.ts'
import type { ErrorCode } from '../../src/errors.ts'
import { allocateFigures } from '../../src/pager/figures.ts'
import { LiveImage } from '../../src/pager/served-image.ts'
import { Staging, type StagingBuffer } from '../../src/pager/staging.ts'
import { ImageSurroundings } from '../../src/pager/surroundings.ts'
import { type Requests, Wants } from '../../src/pager/wants.ts'
import { systemClock } from '../../src/util/clock.ts'

const CHUNKS = 8
const DEADLINE_MS = 1000

let writer: ArenaWriter
let around: ImageSurroundings
let asked: { readonly request: number; readonly handle: number; readonly chunk: number }[]

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['performance', 'setTimeout', 'clearTimeout'] })
  const memory = Arena.allocate(4)
  const arena = new Arena(memory)
  writer = new ArenaWriter(memory)
  asked = []
  const requests: Requests = {
    want: (handle, chunk) => asked.push({ request: asked.length, handle, chunk }) - 1,
    cancel: () => undefined,
  }
  const timers = systemClock
  const wants: Wants = new Wants({ arena, requests, requestsMax: 4096, timers })
  around = new ImageSurroundings({ arena, wants, timers, native: undefined, countHits: () => undefined })
})
afterEach(() => vi.useRealTimers())

/** An image whose pages each lie in a chunk of its own; chunk n has number 10 × handle + n. */
function imageOf(handle: number, tenant: string): LiveImage {
  const numbers = Uint32Array.from({ length: CHUNKS }, (_, chunk) => 10 * handle + chunk)
  const starts = Uint32Array.from({ length: CHUNKS + 1 }, (_, page) => page)
  const chunks = Int32Array.from({ length: CHUNKS }, (_, page) => page)
  const image = { sizeBytes: CHUNKS * PAGE_BYTES, starts, chunks, firsts: new Uint8Array(CHUNKS), numbers, handle }
  const owner = { tenant, restore: `r${handle}` }
  const figures = allocateFigures()
  return new LiveImage({ name: 'rootfs', kind: 'disk', image, owner, overlay: undefined, figures }, around, DEADLINE_MS)
}

function read(image: LiveImage, page: number, pages: number): (string | number)[] {
  const told: (string | number)[] = []
  image.read(page * PAGE_BYTES, pages * PAGE_BYTES, {
    onBytes(bytes) {
      const target = Buffer.alloc(bytes.sizeBytes)
      bytes.copyTo(target)
      told.push(...Array.from({ length: pages }, (_, at) => target[at * PAGE_BYTES]!))
    },
    onReadFailed: (code: ErrorCode | undefined) => told.push(code ?? 'a bug'),
    onBroken: () => told.push('broken'),
  })
  return told
}

/** The engine's answer to a request: the chunk lies in a slot, whose pages begin with the chunk's number. */
function bring(request: number, slot: number): number {
  const { handle, chunk } = asked[request]!
  const number = 10 * handle + chunk
  writer.pages(slot)[0] = number
  writer.publish(number, slot, 1)
  around.wants.answer({ request, slot, tier: 'origin', code: undefined })
  return number
}

function takeAll(staging: Staging): StagingBuffer[] {
  const buffers: StagingBuffer[] = []
  for (let tenant = 0; buffers.length < 32; tenant++) {
    for (let taken = 0; taken < 32; taken++) staging.take({ tenant: `t${tenant}`, restore: 'r' }, buffer => buffers.push(buffer))
  }
  return buffers
}

describe('a read', () => {
  it('waits for no buffer while others do not get their chunks', () => {
    const hanging = imageOf(1, 'hanging')
    for (let reads = 0; reads < 320; reads++) read(hanging, 0, 2)
    const told = read(imageOf(2, 'well'), 0, 2)
    const own = asked.filter(({ handle }) => handle === 2)
    expect(own.map(({ chunk }) => chunk)).toEqual([0, 1])
    for (const [slot, { request }] of own.entries()) bring(request, slot)
    expect(told).toEqual([20, 21])
  })

  it('is answered with a buffer when its chunks do not stay in the arena together', () => {
    const told = read(imageOf(1, 'acme'), 0, 2)
    writer.withdraw(bring(0, 0))
    writer.withdraw(bring(1, 1))
    expect([told, asked.slice(2).map(({ chunk }) => chunk)]).toEqual([[], [0]])
    writer.withdraw(bring(2, 0))
    expect(told).toEqual([10, 11])
  })

  it('that waits for a buffer has a deadline, which counts from its arrival', () => {
    const buffers = takeAll(around.staging)
    const told = read(imageOf(1, 'acme'), 0, 2)
    vi.advanceTimersByTime(600)
    writer.withdraw(bring(0, 0))
    writer.withdraw(bring(1, 1))
    vi.advanceTimersByTime(399)
    expect(told).toEqual([])
    vi.advanceTimersByTime(1)
    expect(told).toEqual(['TIMEOUT'])
    // It does not wait for one any more either.
    for (const buffer of buffers) buffer.leave()
    expect(asked).toHaveLength(2)
  })
})

it('leaves buffers for other tenants', () => {
  const staging = new Staging(undefined)
  const given: string[] = []
  for (const tenant of ['one', 'other']) {
    for (let taken = 0; taken < 100; taken++) staging.take({ tenant, restore: 'r' }, () => given.push(tenant))
  }
  expect([given.filter(tenant => tenant === 'one').length, given.includes('other')]).toEqual([16, true])
})
