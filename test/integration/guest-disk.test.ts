/**
 * A real guest whose disk comes over NBD, through QEMU's own client and virtio-blk: the bytes it reads are the snapshot's, what it writes stays in its restore, and a commit has it;
 * of the disk alone (`thaw serve nbd`), or of a whole machine, memory by FUSE and disk by NBD in one restore.
 */
import { randomBytes } from 'node:crypto'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { cachedGuest } from '../../bench/guest/cached.ts'
import type { GuestCapture } from '../../bench/guest/capture.ts'
import { Workplace } from '../cli/program.ts'
import { nothingIsLeftOf } from './leftovers.ts'
import { answerTo, RestoredGuest } from './restored-guest.ts'
import { ServingCommand } from './serving-command.ts'

const MACHINE = 'db:1'
const MIB = 2 ** 20
const DISK_MIB = 16
/** Neither begins nor ends with a page, and it lies in two ranges. */
const READ_AT = MIB - 511
const READ_BYTES = 1000
const WRITTEN_AT = 5 * MIB + 4094
const WORD = Buffer.from('written by a guest')

let place: Workplace
let capture: GuestCapture
/** What was pushed: random bytes, and nothing in its second half. */
let disk: Buffer

beforeAll(async () => {
  capture = await cachedGuest({ sizeMiB: 256, diskMiB: DISK_MIB })
  place = await Workplace.create()
  disk = Buffer.concat([randomBytes((DISK_MIB / 2) * MIB), Buffer.alloc((DISK_MIB / 2) * MIB)])
  await writeFile(place.path('disk.img'), disk)
  await place.mustRun('init')
  const images = [`memory=${capture.images.fn}`, `state=${capture.states.fn}`, 'disk:disk=disk.img']
  await place.mustRun('push', '--layer', 'os', '--tag', MACHINE, ...images)
})

afterAll(async () => {
  await place?.[Symbol.asyncDispose]()
})

const uriOf = (socket: string): string => `nbd+unix:///?socket=${place.path(socket)}`

const readDisk = ({ machine }: RestoredGuest, offset: number, length: number): Promise<string> =>
  machine.request('disk', `read ${offset} ${length}`)

const writeDisk = ({ machine }: RestoredGuest, offset: number, bytes: Buffer): Promise<string> =>
  machine.request('disk', `write ${offset} ${bytes.toString('hex')}`)

async function pulledDisk(ref: string): Promise<Buffer> {
  await place.mustRun('pull', ref, 'pulled', 'disk')
  return await readFile(join(place.folder, 'pulled/disk'))
}

/** The pushed disk with these bytes in it. */
function diskWith(bytes: Buffer, offset: number): Buffer {
  const changed = Buffer.from(disk)
  bytes.copy(changed, offset)
  return changed
}

async function expectPushedDisk(guest: RestoredGuest): Promise<void> {
  expect(await readDisk(guest, READ_AT, READ_BYTES)).toBe(disk.toString('hex', READ_AT, READ_AT + READ_BYTES))
  expect(await readDisk(guest, WRITTEN_AT, WORD.length)).toBe(disk.toString('hex', WRITTEN_AT, WRITTEN_AT + WORD.length))
  expect(await readDisk(guest, DISK_MIB * MIB - 100, 100)).toBe('00'.repeat(100))
}

describe('a disk of its own restore', () => {
  it('is read and written by a guest, and committed alone', async () => {
    await using served = await ServingCommand.start(place, 'serve', 'nbd', MACHINE, 'disk', '--socket', 'disk.sock', '--writable')
    await using guest = await RestoredGuest.mounted(place, MACHINE, 'vm1', { capture, disk: uriOf('disk.sock') })
    await expectPushedDisk(guest)
    await writeDisk(guest, WRITTEN_AT, WORD)
    expect(await readDisk(guest, WRITTEN_AT, WORD.length)).toBe(WORD.toString('hex'))
    expect(await served.stats('disk')).toMatchObject({ failures: 0, writtenBytes: expect.toSatisfy(bytes => bytes >= WORD.length) })
    // The other restore of the snapshot has a disk too, and nobody wrote to that.
    expect((await readFile(join(guest.dir, 'disk'))).equals(disk)).toBe(true)

    await guest.machine.close()
    const id = await place.mustRun('commit', served.restore, '--tag', 'db:disk')
    expect((await pulledDisk('db:disk')).equals(diskWith(WORD, WRITTEN_AT))).toBe(true)
    expect((await pulledDisk(MACHINE)).equals(disk)).toBe(true)
    expect(await place.document('verify', id)).toMatchObject({ bad: [] })
  })
})

describe('a disk and the memory of one restore', () => {
  const whole = (ref: string, dir: string): Promise<RestoredGuest> => {
    const command = ['restore', ref, '--fuse', dir, '--nbd', `disk=${dir}.sock`, '--writable']
    return RestoredGuest.resume(place, { capture, command, dir, disk: uriOf(`${dir}.sock`) })
  }

  it('are committed together, and resumed; the disk is written to over NBD alone', async () => {
    await using guest = await whole(MACHINE, 'vm2')
    await expectPushedDisk(guest)
    await guest.machine.request('remember', 'apple')
    await writeDisk(guest, WRITTEN_AT, WORD)
    await expect(writeFile(join(guest.dir, 'disk'), 'x', { flag: 'r+' })).rejects.toMatchObject({ code: 'EROFS' })
    await guest.save('vm2.state')
    await place.mustRun('commit', guest.serving.restore, 'state=vm2.state', '--tag', 'db:2')

    await using child = await whole('db:2', 'vm3')
    expect(await child.machine.request('recall')).toBe('apple')
    expect(await readDisk(child, WRITTEN_AT, WORD.length)).toBe(WORD.toString('hex'))
    expect(await child.machine.request('call', '7')).toBe(answerTo('7'))
    await using fresh = await whole(MACHINE, 'vm4')
    await expectPushedDisk(fresh)
    expect(await fresh.machine.request('recall')).toBe('')
  })
})

describe('the end', () => {
  it('leaves nothing', async () => {
    await nothingIsLeftOf(place.folder)
  })
})
