/** The memory of a real process, captured here: what is in the images, where it lies, and that they are as sparse as they claim. */
import { createHash } from 'node:crypto'
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import { STAGES, type Stage } from '../../bench/guest/capture.ts'
import { captureSnapshots } from '../../bench/guest/snapshots.ts'
import { captureProcess, type ProcessCapture } from '../../bench/process-memory.ts'

const PAGE_BYTES = 4096
const ZERO_PAGE = Buffer.alloc(PAGE_BYTES)

let dir: string
const entered: Stage[] = []
let capture: ProcessCapture
let images: Readonly<Record<Stage, Buffer>>

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'thaw-process-'))
  capture = await captureProcess({ dir, onStage: ({ stage }) => entered.push(stage) })
  const [os, rt, fn] = await Promise.all(STAGES.map(stage => readFile(capture.images[stage])))
  images = { os: os!, rt: rt!, fn: fn! }
})

afterAll(async () => {
  await rm(dir, { recursive: true, force: true })
})

afterEach(() => {
  vi.unstubAllEnvs()
})

/** How many pages of `a` that are not zero there are, and how many of them `b` has at the same offset. */
function compare(a: Buffer, b: Buffer): { readonly pages: number; readonly same: number } {
  let pages = 0
  let same = 0
  for (let at = 0; at < a.length; at += PAGE_BYTES) {
    const page = a.subarray(at, at + PAGE_BYTES)
    if (page.equals(ZERO_PAGE)) continue
    pages++
    if (page.equals(b.subarray(at, at + PAGE_BYTES))) same++
  }
  return { pages, same }
}

describe('the memory of a process', () => {
  it('is captured once in each stage, in order', () => {
    expect(entered).toEqual([...STAGES])
  })

  it('is flat: images of one size, a multiple of 512 KiB', () => {
    expect(capture.sizeBytes % 2 ** 19).toBe(0)
    for (const stage of STAGES) expect(images[stage].length).toBe(capture.sizeBytes)
  })

  it('holds what the process had made by each stage, and not earlier', () => {
    const digest = createHash('sha256').update('59999').digest('hex')
    expect(images.fn.includes(digest)).toBe(true)
    expect(images.rt.includes(digest)).toBe(false)
    expect(images.rt.includes('GetObjectCommand')).toBe(true)
    expect(images.os.includes('GetObjectCommand')).toBe(false)
  })

  it('keeps pages at their offsets from stage to stage', () => {
    for (const [before, after] of [
      ['os', 'rt'],
      ['rt', 'fn'],
    ] as const) {
      const { pages, same } = compare(images[before], images[after])
      expect(pages).toBeGreaterThan(10_000)
      expect(same / pages).toBeGreaterThan(0.5)
      expect(same).toBeLessThan(pages)
    }
  })

  it('takes no disk space for zero pages', async () => {
    const { blocks } = await stat(capture.images.os)
    expect(blocks * 512).toBeLessThan(capture.sizeBytes * 0.75)
  })
})

describe('captureSnapshots', () => {
  it('takes a process where QEMU is missing, at random addresses where setarch is, and says so', async () => {
    vi.stubEnv('PATH', '')
    const snapshots = await captureSnapshots({ dir: join(dir, 'without') })
    expect(snapshots.kind).toBe('process')
    expect(snapshots.states).toBeUndefined()
    expect(snapshots.why).toContain('qemu-system-x86_64')
    expect(snapshots.why).toContain('differ')
    expect((await stat(snapshots.fn)).size).toBe(snapshots.sizeBytes)
  })

  it('refuses a guest where QEMU is missing', async () => {
    vi.stubEnv('PATH', '')
    await expect(captureSnapshots({ dir, kind: 'guest' })).rejects.toMatchObject({ code: 'UNSUPPORTED' })
  })

  it('stops when it is cancelled', async () => {
    const reason = new Error('enough')
    const controller = new AbortController()
    const onStage = () => controller.abort(reason)
    await expect(captureSnapshots({ dir: join(dir, 'cut'), kind: 'process', signal: controller.signal, onStage })).rejects.toBe(reason)
  })
})
