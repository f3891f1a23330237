/** A real guest in QEMU: captured (once per user, then from the cache), resumed from copies of its memory, and ended when it fails. */
import { createHash } from 'node:crypto'
import { mkdtemp, open, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { cachedGuest } from '../../bench/guest/cached.ts'
import { copySparse, type GuestCapture, resumeGuest, STAGES } from '../../bench/guest/capture.ts'
import { Machine } from '../../bench/guest/machine.ts'
import { requireQemu } from '../../bench/guest/qemu.ts'
import { captureSnapshots } from '../../bench/guest/snapshots.ts'

let dir: string
let capture: GuestCapture

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'thaw-guest-'))
  capture = await cachedGuest()
})

afterAll(async () => {
  await rm(dir, { recursive: true, force: true })
})

/** What the function `table` answers, worked out here. */
function answerTo(argument: string): string {
  return createHash('sha256').update(argument).digest('hex')
}

describe('a captured guest', () => {
  it('is three sparse images of one size, and the rest of the machine', async () => {
    for (const stage of STAGES) {
      const image = await stat(capture.images[stage])
      expect(image.size).toBe(capture.sizeMiB * 2 ** 20)
      expect(image.blocks * 512).toBeLessThan(image.size * 0.6)
      const state = await stat(capture.states[stage])
      expect(state.size).toBeGreaterThan(100_000)
      expect(state.size).toBeLessThan(2_000_000)
    }
  })

  it('holds the data of the function from its stage on', async () => {
    const digest = answerTo('59999')
    expect((await readFile(capture.images.fn)).includes(digest)).toBe(true)
    expect((await readFile(capture.images.rt)).includes(digest)).toBe(false)
  })

  it('is found again, not captured again', async () => {
    const stages: string[] = []
    const again = await cachedGuest({ onStage: ({ stage }) => stages.push(stage) })
    expect(again).toEqual(capture)
    expect(stages).toEqual([])
  })

  it('is what captureSnapshots hands out here', async () => {
    const snapshots = await captureSnapshots({ dir })
    expect(snapshots).toMatchObject({ kind: 'guest', ...capture.images, states: capture.states, sizeBytes: capture.sizeMiB * 2 ** 20 })
  })
})

describe('a resumed guest', () => {
  it('answers from a copy of its memory, with a launcher before QEMU', async () => {
    const memory = join(dir, 'fn.img')
    await copySparse(capture.images.fn, memory)
    const { answer } = await resumeGuest({ dir: capture.dir, memory, argument: '4711', launcher: ['env'] })
    expect(answer).toBe(answerTo('4711'))
  })

  it('of the runtime loads the function first', async () => {
    const memory = join(dir, 'rt.img')
    await copySparse(capture.images.rt, memory)
    const { answer } = await resumeGuest({ dir: capture.dir, stage: 'rt', memory, argument: '12' })
    expect(answer).toBe(answerTo('12'))
  })

  it('leaves its image as it was captured', async () => {
    const memory = join(dir, 'untouched.img')
    const before = await stat(capture.images.fn)
    await copySparse(capture.images.fn, memory)
    await resumeGuest({ dir: capture.dir, memory })
    expect((await stat(capture.images.fn)).mtimeMs).toBe(before.mtimeMs)
  })

  it('does not answer from memory that is not its own', async () => {
    const memory = join(dir, 'zero.img')
    await using file = await open(memory, 'w')
    await file.truncate(capture.sizeMiB * 2 ** 20)
    await expect(resumeGuest({ dir: capture.dir, memory })).rejects.toMatchObject({ code: 'UNAVAILABLE' })
  })
})

describe('a machine', () => {
  const machine = (kernel: string) => ({ qemu: requireQemu().qemu, kernel, memory: join(dir, 'm.img'), sizeMiB: 256 })

  it('that cannot start says so and leaves no process', async () => {
    const nothing = join(dir, 'none')
    await expect(Machine.start({ ...machine(nothing), initrd: nothing })).rejects.toMatchObject({ code: 'UNAVAILABLE' })
    const missing = { ...machine(nothing), initrd: nothing, launcher: [join(dir, 'no-program')] }
    await expect(Machine.start(missing)).rejects.toMatchObject({ code: 'UNAVAILABLE' })
  })

  it('whose guest ends says so instead of waiting', async () => {
    const initrd = join(dir, 'empty.gz')
    await writeFile(initrd, '')
    await using guest = await Machine.start({ ...machine(requireQemu().kernel), initrd })
    await expect(guest.until('READY')).rejects.toMatchObject({ code: 'UNAVAILABLE' })
  })

  it('is gone once closed', async () => {
    const guest = await Machine.start({ ...machine(requireQemu().kernel), initrd: join(capture.dir, 'initrd.gz') })
    const pid = guest.pid!
    expect(process.kill(pid, 0)).toBe(true)
    await guest.close()
    await guest.close()
    expect(() => process.kill(pid, 0)).toThrow()
  })

  it('stops waiting when it is cancelled', async () => {
    const controller = new AbortController()
    const reason = new Error('enough')
    const options = { ...machine(requireQemu().kernel), initrd: join(capture.dir, 'initrd.gz'), signal: controller.signal }
    await using guest = await Machine.start(options)
    const waiting = guest.until('NEVER')
    controller.abort(reason)
    await expect(waiting).rejects.toBe(reason)
  })
})
