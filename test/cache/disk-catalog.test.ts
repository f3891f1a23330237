/** The catalog of a disk cache against the plainest list there is, and through its index file. */
import { hash } from 'node:crypto'
import fs from 'node:fs'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, it, vi } from 'vitest'
import { Catalog } from '../../src/cache/disk-catalog.ts'
import { CacheFiles } from '../../src/cache/disk-files.ts'
import { readIndex, writeIndex } from '../../src/cache/disk-index.ts'
import { reconcile } from '../../src/cache/disk-scan.ts'

const BLOCK = 4096
const idOf = (number: number): string => hash('sha256', `${number}`)
const listOf = (catalog: Catalog): [string, number][] => [
  ...catalog.oldestFirst((id, blocks): [string, number] => [Buffer.from(id).toString('hex'), blocks]),
]
/** Many in one folder, and many whose places in its table are the same. */
const id = fc.nat(99).map(number => `${number % 3}0${idOf(number % 7).slice(0, 10)}`.padEnd(62, 'e') + number.toString().padStart(2, '0'))
const step = fc.oneof(
  fc.record({ kind: fc.constant('add' as const), id, blocks: fc.integer({ min: 1, max: 9 }) }),
  fc.record({ kind: fc.constant('touch' as const), id }),
  fc.record({ kind: fc.constant('drop' as const), id }),
  fc.record({ kind: fc.constant('dropOldest' as const) }),
)

it('is in the order of use, with the bytes that files take', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 300 }), steps => {
      const catalog = new Catalog()
      let list: (readonly [string, number])[] = []
      const without = (id: string) => list.filter(([other]) => other !== id)
      for (const step of steps) {
        const found = 'id' in step ? list.find(([other]) => other === step.id) : undefined
        if (step.kind === 'add') {
          catalog.add(step.id, step.blocks * BLOCK)
          list = [...without(step.id), [step.id, step.blocks]]
        } else if (step.kind === 'touch') {
          expect(catalog.touch(step.id)).toBe(found !== undefined)
          if (found !== undefined) list = [...without(step.id), found]
        } else if (step.kind === 'drop') {
          catalog.drop(step.id)
          list = without(step.id)
        } else expect(catalog.dropOldest()?.id).toBe(list.shift()?.[0])
        expect(listOf(catalog)).toEqual(list)
        expect(catalog.entries).toBe(list.length)
        expect(catalog.bytes).toBe(list.reduce((sum, [, blocks]) => sum + blocks * BLOCK, 0))
      }
    }),
  )
})

it.each([
  [0, 1],
  [1, 1],
  [BLOCK, 1],
  [BLOCK + 1, 2],
])('counts a file of %i bytes as %i blocks', (sizeBytes, blocks) => {
  const catalog = new Catalog()
  catalog.add(idOf(0), sizeBytes)
  expect(catalog.bytes).toBe(blocks * BLOCK)
})

it('drops what a look did not see, but what came meanwhile', () => {
  const catalog = new Catalog()
  const ids = Array.from({ length: 2000 }, (_, number) => idOf(number))
  for (const id of ids.slice(0, 1000)) catalog.add(id, 1)
  catalog.beginLook()
  for (const id of ids.slice(0, 500)) expect(catalog.saw(id)).toBe(true)
  for (const id of ids.slice(1000)) expect(catalog.saw(id)).toBe(false)
  for (const id of ids.slice(1500)) catalog.add(id, 1)
  for (let folder = 0; folder < 256; folder++) catalog.dropUnseen(folder)
  expect(listOf(catalog).map(([id]) => id)).toEqual([...ids.slice(0, 500), ...ids.slice(1500)])
})

it.each(['', 'zz', 'Ab/..', 'a', '\u{1f600}', 'index'])('knows no %j', name => {
  const catalog = new Catalog()
  expect([catalog.saw(name), catalog.has(name), catalog.touch(name)]).toEqual([false, false, false])
})

describe('the index', () => {
  /** What a catalog of so many entries says after it was written, spoilt and read. */
  async function throughIndex(entries: number, spoil: (index: Buffer) => Buffer = index => index): Promise<[string, number][][]> {
    const path = await mkdtemp(join(tmpdir(), 'thaw-index-'))
    try {
      const files = new CacheFiles(path)
      const [catalog, read] = [new Catalog(), new Catalog()]
      for (let number = 0; number < entries; number++) catalog.add(idOf(number), number * 100_000)
      if (entries > 5) catalog.touch(idOf(5))
      await writeIndex(files, catalog)
      await writeFile(files.indexPath, spoil(await readFile(files.indexPath)))
      await readIndex(files, read, () => undefined)
      return [catalog, read].map(listOf)
    } finally {
      await rm(path, { recursive: true })
    }
  }

  it.each([0, 1, 511, 512, 513, 3000])('gives back %i entries in their order', async entries => {
    const [written, read] = await throughIndex(entries)
    expect(written).toHaveLength(entries)
    expect(read).toEqual(written)
  })

  it.each<[string, number, (index: Buffer) => Buffer]>([
    ['that is empty', 0, () => Buffer.alloc(0)],
    ['of another kind', 0, () => Buffer.from('not an index at all, but long enough to look like one, perhaps')],
    ['with an absurd count', 0, index => index.fill(0xff, 8, 12)],
    ['that was torn', 1024, index => index.subarray(0, index.length - 5)],
    ['with a flipped bit', 512, index => index.fill(index[25_000]! ^ 1, 25_000, 25_001)],
  ])('%s gives the %i entries before that', async (_, kept, spoil) => {
    const [written, read] = await throughIndex(1200, spoil)
    expect(read).toEqual(written!.slice(0, kept))
  })
})

it('does everything for 400,000 entries in steps that nobody notices', { timeout: 120_000 }, async () => {
  const path = await mkdtemp(join(tmpdir(), 'thaw-steps-'))
  const files = new CacheFiles(path)
  const [catalog, read] = [new Catalog(), new Catalog()]
  const names = new Map<string, string[]>()
  for (let folder = 0; folder < 256; folder++) names.set(folder.toString(16).padStart(2, '0'), [])
  for (const [folder] of names) await mkdir(join(files.root, folder), { recursive: true })
  for (let number = 0; number < 400_000; number++) {
    const id = idOf(number)
    catalog.add(id, 1)
    if (number % 10 > 0) names.get(id.slice(0, 2))!.push(id)
  }
  // Files that are only named: what is known is not looked at.
  const real = fs.readdir
  const listing = vi.spyOn(fs, 'readdir').mockImplementation(((folder: string, ...rest: unknown[]) => {
    const found = names.get(basename(folder))
    if (found === undefined) return Reflect.apply(real, fs, [folder, ...rest])
    setImmediate(rest.at(-1) as (error: null, found: string[]) => void, null, found)
  }) as typeof fs.readdir)
  try {
    // A step of the whole would be 200 ms; of a part it is one or two, and the machine may be busy.
    const longestMs = await longestStep(async () => {
      await writeIndex(files, catalog)
      await readIndex(files, read, () => undefined)
      expect(read.entries).toBe(400_000)
      await reconcile(files, read, { check: () => undefined })
    })
    expect(read.entries).toBe(360_000)
    expect(longestMs).toBeLessThan(100)
  } finally {
    listing.mockRestore()
    await rm(path, { recursive: true })
  }
})

/** The most processor time that the thread spent between two turns of its loop, in milliseconds. */
async function longestStep(work: () => Promise<void>): Promise<number> {
  let [longest, last, done] = [0, process.threadCpuUsage(), false]
  const beat = (): void => {
    const { user, system } = process.threadCpuUsage(last)
    longest = Math.max(longest, (user + system) / 1000)
    last = process.threadCpuUsage()
    if (!done) setImmediate(beat)
  }
  await new Promise(setImmediate)
  last = process.threadCpuUsage()
  setImmediate(beat)
  await work()
  done = true
  return longest
}
