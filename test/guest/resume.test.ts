/** One snapshot resumed more than once: what the guests share, what the generation of a machine renews, and what each keeps to itself. */
import { createHash } from 'node:crypto'
import { copyFile, mkdtemp, open, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { cachedGuest } from '../../bench/guest/cached.ts'
import { CAPTURED_GENERATION, copySparse, type GuestCapture, type ResumeOptions, resumeMachine } from '../../bench/guest/capture.ts'

const SMALL_MIB = 256

let dir: string
let capture: GuestCapture
let copies = 0

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'thaw-resume-'))
  capture = await cachedGuest({ sizeMiB: SMALL_MIB, diskMiB: 16 })
})

afterAll(async () => {
  await rm(dir, { recursive: true, force: true })
})

/** Resumes from a copy of `image`, and with a copy of the captured disk unless one is given. */
async function resumeCopy(image: string, options: Partial<ResumeOptions> = {}) {
  const [memory, disk] = [join(dir, `${++copies}.img`), join(dir, `${copies}.disk`)]
  await copySparse(image, memory)
  await copyFile(join(capture.dir, 'disk.img'), disk)
  const machine = await resumeMachine({ dir: capture.dir, memory, disk, ...options })
  return {
    machine,
    memory,
    async [Symbol.asyncDispose]() {
      await machine.close()
    },
  }
}

describe('guests of one snapshot', () => {
  it('repeat random numbers when the generation is the captured one', async () => {
    const numbers: string[] = []
    for (let guest = 0; guest < 2; guest++) {
      await using resumed = await resumeCopy(capture.images.fn, { generation: CAPTURED_GENERATION })
      expect(await resumed.machine.request('generation')).toBe(CAPTURED_GENERATION)
      numbers.push(await resumed.machine.request('pseudorandom', '32'))
    }
    expect(numbers[0]).toMatch(/^[0-9a-f]{64}$/)
    expect(numbers[1]).toBe(numbers[0])
  })

  it('draw others when each has a fresh one, from the kernel and from a generator of the program', async () => {
    // Saved just after the kernel had drawn: without renewal it would go on with the same numbers.
    const state = join(dir, 'drawn.state')
    await using drawn = await resumeCopy(capture.images.fn, { generation: CAPTURED_GENERATION })
    await drawn.machine.request('random', '32')
    await drawn.machine.save(state)
    await using one = await resumeCopy(drawn.memory, { state })
    await using two = await resumeCopy(drawn.memory, { state })
    for (const request of ['generation', 'random', 'pseudorandom'] as const) {
      const argument = request === 'generation' ? '' : '32'
      expect(await one.machine.request(request, argument)).not.toBe(await two.machine.request(request, argument))
    }
    expect(await one.machine.request('generation')).not.toBe(CAPTURED_GENERATION)
  })

  it('take random bytes from the host', async () => {
    await using resumed = await resumeCopy(capture.images.fn, { generation: CAPTURED_GENERATION })
    const before = await resumed.machine.request('pseudorandom', '32')
    await resumed.machine.request('renew', 'a5'.repeat(64))
    await using again = await resumeCopy(capture.images.fn, { generation: CAPTURED_GENERATION })
    expect(await again.machine.request('pseudorandom', '32')).toBe(before)
    expect(await again.machine.request('pseudorandom', '32')).not.toBe(await resumed.machine.request('pseudorandom', '32'))
  })

  it('do not see what another one was told, and a guest saved again does', async () => {
    await using one = await resumeCopy(capture.images.fn)
    await using two = await resumeCopy(capture.images.fn)
    expect(await one.machine.request('remember', 'apple')).toBe('1')
    expect(await one.machine.request('remember', 'pear')).toBe('2')
    expect(await two.machine.request('recall')).toBe('')
    await one.machine.request('touch', '8')
    const state = join(dir, 'told.state')
    await one.machine.save(state)
    await using child = await resumeCopy(one.memory, { state })
    expect(await child.machine.request('recall')).toBe('apple pear')
    expect(await child.machine.request('call', '7')).toBe(createHash('sha256').update('7').digest('hex'))
  })
})

describe('the disk of a resumed guest', () => {
  it('is read and written by the guest, past its page cache', async () => {
    const disk = join(dir, 'given.disk')
    await copyFile(join(capture.dir, 'disk.img'), disk)
    await using file = await open(disk, 'r+')
    await file.write(Buffer.from('c0ffee', 'hex'), 0, 3, 8192)
    await using resumed = await resumeCopy(capture.images.fn, { disk })
    expect(await resumed.machine.request('disk', 'read 8191 5')).toBe('00c0ffee00')
    expect(await resumed.machine.request('disk', 'write 8194 beef')).toBe('beef')
    const { buffer } = await file.read(Buffer.alloc(4), 0, 4, 8192)
    expect(buffer.toString('hex')).toBe('c0ffbeef')
  })

  it('must be given if it was captured with one, and only then', async () => {
    const memory = join(dir, 'none.img')
    await expect(resumeMachine({ dir: capture.dir, memory })).rejects.toThrow(TypeError)
    const { dir: withoutDisk } = await cachedGuest()
    await expect(resumeMachine({ dir: withoutDisk, memory, disk: memory })).rejects.toThrow(TypeError)
  })
})
