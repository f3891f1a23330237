/** What is kept of pages: bits, regions, runs of zeros, streams, and who waits. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { PageBits } from '../../src/frontend/uffd/page-bits.ts'
import { Regions } from '../../src/frontend/uffd/regions.ts'
import { Streams } from '../../src/frontend/uffd/streams.ts'
import { QUEUED, SOON, Waiting } from '../../src/frontend/uffd/waiting.ts'
import { largestZeroRuns, ZeroRuns } from '../../src/frontend/uffd/zero-runs.ts'

const PAGE = 4096
const HUGE = 2 ** 21
const BASE = 0x7f3c_0020_0000

describe('bits of pages', () => {
  it('are those of a set', () => {
    const change = fc.record({ isAdded: fc.boolean(), page: fc.nat(99), count: fc.nat(60) })
    fc.assert(
      fc.property(fc.array(change), changes => {
        const bits = new PageBits(100)
        const model = new Set<number>()
        for (const { isAdded, page, count } of changes) {
          const fits = Math.min(count, 100 - page)
          if (isAdded) bits.add(page, fits)
          else bits.delete(page, fits)
          for (let i = page; i < page + fits; i++) isAdded ? model.add(i) : model.delete(i)
        }
        for (let page = 0; page < 100; page++) expect(bits.has(page)).toBe(model.has(page))
        for (const isSet of [true, false]) {
          const next = (from: number): number =>
            Array.from({ length: 95 }, (_, i) => i).find(i => i >= from && model.has(i) === isSet) ?? 95
          for (let from = 0; from < 95; from++) expect(bits.next(isSet, from, 95)).toBe(next(from))
        }
      }),
    )
  })
})

describe('regions', () => {
  const layouts = [
    { address: BASE + 4 * HUGE, sizeBytes: HUGE, offset: 0, pageBytes: HUGE },
    { address: BASE, sizeBytes: 3 * PAGE, offset: HUGE, pageBytes: PAGE },
  ]

  it('are found by the addresses they hold', () => {
    const regions = new Regions(layouts)
    for (const address of [BASE, BASE + 3 * PAGE - 1, BASE]) expect(regions.at(address)?.firstPage).toBe(512)
    expect(regions.at(BASE + 4 * HUGE + 5000)?.firstPage).toBe(0)
    for (const address of [0, BASE - 1, BASE + 3 * PAGE, BASE + 5 * HUGE]) expect(regions.at(address)).toBeUndefined()
  })

  it('number their pages, huge ones by their first', () => {
    const regions = new Regions(layouts)
    expect(regions.at(BASE)?.pageAt(BASE + PAGE + 7)).toBe(1)
    expect(regions.at(BASE + 4 * HUGE)?.pageAt(BASE + 4 * HUGE + 9 * PAGE)).toBe(0)
  })

  it('tell pages that still hold the image from those that were installed or given back', () => {
    const region = new Regions([{ address: BASE, sizeBytes: 16 * PAGE, offset: 0, pageBytes: PAGE }]).all[0]!
    expect(region.countFresh(0, 100)).toBe(16)
    region.place(10, 2)
    expect(region.countFresh(8, 5)).toBe(2)
    region.remove(5, 1)
    expect(region.countFresh(0, 100)).toBe(5)
    expect(region.isRemoved(5)).toBe(true)
    region.remove(10, 2)
    expect(region.countFresh(10, 1)).toBe(0)
  })
})

describe('runs of zeros', () => {
  const runs = Uint32Array.from([512, 1024, 0, 100, 300, 16])
  const cut = (pageBytes: number, offset: number, sizeBytes: number): [number, number][] => {
    const zeroRuns = new ZeroRuns(runs, new Regions([{ address: BASE, sizeBytes, offset, pageBytes }]))
    const found: [number, number][] = []
    while (zeroRuns.next()) found.push([(zeroRuns.address - BASE) / PAGE, zeroRuns.sizeBytes / PAGE])
    return found
  }

  it('are an image’s largest first, short ones left out', () => {
    const starts = Uint32Array.from([0, 100, 300, 315, 512, 1536, 1600])
    const chunks = Int32Array.from([-1, 0, -1, 1, -1, 2])
    expect([...largestZeroRuns({ starts, chunks })]).toEqual([512, 1024, 0, 100])
  })

  it('are cut to the region they lie in', () => {
    expect(cut(PAGE, 0, 2048 * PAGE)).toEqual([
      [512, 1024],
      [0, 100],
      [300, 16],
    ])
    expect(cut(PAGE, 600 * PAGE, 100 * PAGE)).toEqual([[0, 100]])
    expect(cut(PAGE, 90 * PAGE, 100 * PAGE)).toEqual([])
  })

  it('are cut to whole huge pages', () => {
    expect(cut(HUGE, 100 * PAGE, 4 * HUGE)).toEqual([[512, 512]])
  })
})

describe('streams', () => {
  it('grow with each fault that is right behind what was installed', () => {
    const streams = new Streams()
    expect(streams.stretchAt(10)).toBe(0)
    const stretches: number[] = []
    for (let page = 11, i = 0; i < 6; i++) {
      const stretch = streams.stretchAt(page)
      stretches.push(stretch)
      page += 1 + stretch
      streams.reached(page)
    }
    expect(stretches).toEqual([2, 8, 32, 128, 128, 128])
  })

  it('run side by side, and are forgotten when there are many', () => {
    const streams = new Streams()
    for (let i = 0; i < 8; i++) streams.stretchAt(i * 1000)
    for (let i = 0; i < 8; i++) expect(streams.stretchAt(i * 1000 + 1)).toBeGreaterThan(0)
    for (let i = 0; i < 8; i++) streams.stretchAt(i * 1000 + 500)
    expect(streams.stretchAt(4)).toBe(0)
  })
})

describe('who waits', () => {
  it('is found by what he waits for, once each, whatever comes back meanwhile', () => {
    const waiting = new Waiting()
    for (let i = 0; i < 10; i++) waiting.add(i * PAGE, i % 2 === 0 ? SOON : 3)
    waiting.add(4 * PAGE, QUEUED)
    const found: number[] = []
    for (let place = waiting.take(SOON, waiting.count); place >= 0; place = waiting.take(SOON, place)) {
      found.push(waiting.taken / PAGE)
      waiting.add(waiting.taken, SOON)
    }
    expect(found.sort()).toEqual([0, 2, 6, 8])
    expect(waiting.count).toBe(10)
  })

  it('is one of 4,096 at most', () => {
    const waiting = new Waiting()
    for (let i = 0; i < 4096; i++) expect(waiting.add(i * PAGE, SOON)).toBe(true)
    expect(waiting.add(7 * PAGE, SOON)).toBe(true)
    expect(waiting.add(4096 * PAGE, SOON)).toBe(false)
  })
})
