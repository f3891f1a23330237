/** A mount's session without a kernel: requests as bytes, answers as bytes. */
import fc from 'fast-check'
import { beforeEach, describe, expect, it } from 'vitest'
import { errnoOf } from '../../src/frontend/errno.ts'
import type { Transport } from '../../src/frontend/fuse/device.ts'
import { isDying } from '../../src/frontend/fuse/dying.ts'
import { OPCODE, WRITE_CACHE } from '../../src/frontend/fuse/protocol.ts'
import { WAITING_MAX } from '../../src/frontend/fuse/requests.ts'
import { FuseSession } from '../../src/frontend/fuse/session.ts'
import { ERRNO } from '../../src/util/native.ts'
import { type FakeImage, fakeImage } from './fake-image.ts'

const MEMORY = 2
const ROOTFS = 3
const SIZE_BYTES = 40_000

interface Answer {
  readonly unique: bigint
  readonly errno: number
  readonly body: Buffer
}

let memory: FakeImage
let rootfs: FakeImage
let session: FuseSession
let answers: Answer[]
/** What the kernel says to the next answers. */
let refusals: number[]
let later: (() => void)[]
let roomCount: number
let unreadable: unknown[]
let damaged: unknown[]

function take(answer: Buffer): number {
  const refused = refusals.shift()
  if (refused !== undefined) return refused
  expect(answer.readUInt32LE(0)).toBe(answer.length)
  answers.push({ errno: Math.abs(answer.readInt32LE(4)), unique: answer.readBigUInt64LE(8), body: Buffer.from(answer.subarray(16)) })
  return 0
}

const transport: Transport = {
  receive: () => 0,
  isUnmounted: () => false,
  write: (answer, sizeBytes) => take(Buffer.from(answer.subarray(0, sizeBytes))),
  writeGathered(header, bytes) {
    const body = Buffer.alloc(bytes.sizeBytes)
    bytes.copyTo(body)
    return take(Buffer.concat([header, body]))
  },
}

beforeEach(() => {
  memory = fakeImage('memory', Buffer.alloc(SIZE_BYTES, 5).fill(0, 8192, 20_480))
  rootfs = fakeImage('rootfs', Buffer.alloc(SIZE_BYTES, 6), true)
  answers = []
  refusals = []
  later = []
  roomCount = 0
  unreadable = []
  damaged = []
  session = new FuseSession(transport, {
    images: new Map([memory, rootfs].map(image => [image.name, image])),
    look: { uid: 7, gid: 8, readOnlyMode: 0o440, writableMode: 0o640, timeMs: 5250 },
    writable: ['rootfs'],
    readAheadBytes: 4096,
    loop: {
      after: (_ms, callback) => {
        later.push(callback)
        return () => undefined
      },
    },
    onOpened: () => undefined,
    onUnreadable: (...told) => unreadable.push(told),
    onDamaged: (...told) => damaged.push(told),
    onRoom: () => void roomCount++,
    onBroken: error => {
      throw error
    },
  })
})

/** Words of a body, 64-bit numbers as two. */
const words = (...values: number[]): Buffer => Buffer.from(Uint32Array.from(values).buffer)

function ask(opcode: number, node: number, body: Buffer, unique = 2n, thread = 0): Answer | undefined {
  const header = Buffer.alloc(40)
  header.writeUInt32LE(40 + body.length, 0)
  header.writeUInt32LE(opcode, 4)
  header.writeBigUInt64LE(unique, 8)
  header.writeBigUInt64LE(BigInt(node), 16)
  header.writeUInt32LE(thread, 32)
  const request = Buffer.concat([header, body])
  request.copy(session.request)
  const before = answers.length
  session.handle(request.length)
  return answers.slice(before).at(-1)
}

const read = (offset: number, sizeBytes: number, unique?: bigint, thread?: number) =>
  ask(OPCODE.read, MEMORY, words(0, 0, offset, 0, sizeBytes, 0, 0, 0, 0, 0), unique, thread)

describe('a session', () => {
  it('greets, with what both can', () => {
    const { errno, body } = ask(OPCODE.init, 0, words(7, 44, 131_072, 0xffff_ffff))!
    expect(errno).toBe(0)
    expect([0, 4, 8, 20].map(at => body.readUInt32LE(at))).toEqual([7, 38, 4096, 2 ** 20])
    expect(body.readUInt32LE(12)).toBe((1 << 0) | (1 << 5) | (1 << 15) | (1 << 18) | (1 << 22))
    expect(ask(OPCODE.init, 0, words(7, 30, 0, 0))?.errno).toBe(71)
  })

  it('finds files by name, and says for long which are not there', () => {
    const found = ask(OPCODE.lookup, 1, Buffer.from('memory\0'))!.body
    expect([found.readBigUInt64LE(0), found.readBigUInt64LE(48)]).toEqual([BigInt(MEMORY), BigInt(SIZE_BYTES)])
    expect([found.readUInt32LE(100).toString(8), found.readUInt32LE(108), found.readUInt32LE(112)]).toEqual(['100440', 7, 8])
    expect([found.readBigUInt64LE(72), found.readUInt32LE(92)]).toEqual([5n, 250_000_000])
    const missing = ask(OPCODE.lookup, 1, Buffer.from('other\0'))!
    expect([missing.errno, missing.body.readBigUInt64LE(0), missing.body.readBigUInt64LE(16) > 1000n]).toEqual([0, 0n, true])
  })

  it('gives bytes, fewer at the end, none beyond', () => {
    expect(read(100, 5000)?.body.equals(memory.bytes.subarray(100, 5100))).toBe(true)
    expect(read(SIZE_BYTES - 10, 4096)?.body).toHaveLength(10)
    expect(read(SIZE_BYTES, 4096)).toMatchObject({ errno: 0, body: Buffer.alloc(0) })
    expect(ask(OPCODE.read, MEMORY, words(0, 0, 0, 0x7fff_ffff, 4096))).toMatchObject({ errno: 0, body: Buffer.alloc(0) })
    expect(ask(OPCODE.read, 1, words(0, 0, 0, 0, 4096))?.errno).toBe(ERRNO.EISDIR)
    expect(ask(OPCODE.read, 99, words(0, 0, 0, 0, 4096))?.errno).toBe(ERRNO.EISDIR)
  })

  it('answers others while one waits, each under its own number', () => {
    memory.isHeld = true
    expect(read(0, 4096, 10n)).toBe(undefined)
    expect(read(4096, 4096, 2n ** 40n)).toBe(undefined)
    expect(ask(OPCODE.getattr, MEMORY, words(0, 0, 0, 0), 14n)?.unique).toBe(14n)
    expect(session.waitingCount).toBe(2)
    memory.answer()
    expect(answers.map(({ unique, errno }) => [unique, errno])).toEqual([
      [14n, 0],
      [10n, 0],
      [2n ** 40n, 0],
    ])
    expect(session.waitingCount).toBe(0)
  })

  it('tells errors, never zeroes', () => {
    memory.isHeld = true
    read(8192, 4096, 6n)
    memory.answer('CORRUPT')
    expect(answers).toEqual([{ unique: 6n, errno: ERRNO.EIO, body: Buffer.alloc(0) }])
    expect(unreadable).toEqual([['memory', 2, 'CORRUPT']])
    expect([errnoOf('NO_SPACE'), errnoOf('TIMEOUT'), errnoOf(undefined), errnoOf('DENIED')]).toEqual([28, 5, 5, 1])
  })

  it('answers with an error what the kernel does not take, and nothing where nobody waits', () => {
    refusals = [ERRNO.EINVAL]
    expect(read(0, 4096)?.errno).toBe(ERRNO.EIO)
    refusals = [ERRNO.ENOENT]
    expect(read(0, 4096)).toBe(undefined)
  })

  it('takes no more than so many that wait, and says when there is room', () => {
    memory.isHeld = true
    for (let i = 1; i <= WAITING_MAX; i++) {
      expect(session.isFull).toBe(false)
      read(0, 4096, BigInt(2 * i))
    }
    expect(session.isFull).toBe(true)
    memory.answer()
    expect([session.isFull, roomCount, answers.length]).toEqual([false, 1, WAITING_MAX])
  })

  it('ends all that wait when it closes', () => {
    memory.isHeld = true
    for (const unique of [2n, 4n]) read(0, 4096, unique)
    session.close()
    expect(answers.map(({ errno }) => errno)).toEqual([ERRNO.EIO, ERRNO.EIO])
    expect(memory.cancelled).toHaveLength(2)
  })

  it('leaves an interrupted read waiting while its thread lives', () => {
    memory.isHeld = true
    read(0, 4096, 2n, process.pid)
    ask(OPCODE.interrupt, 0, words(2, 0), 3n)
    ask(OPCODE.interrupt, 0, words(8, 0), 9n)
    later.shift()!()
    expect([answers.length, session.waitingCount, later.length]).toEqual([0, 1, 1])
    memory.answer()
    expect(answers).toHaveLength(1)
    expect([isDying(process.pid), isDying(0), isDying(2 ** 30)]).toEqual([false, false, false])
  })

  const write = (node: number, offset: number, data: Buffer, { sizeBytes = data.length, flags = 0, unique = 2n } = {}) =>
    ask(OPCODE.write, node, Buffer.concat([words(0, 0, offset, 0, sizeBytes, flags, 0, 0, 0, 0), data]), unique)
  const fsync = () => ask(OPCODE.fsync, ROOTFS, words(2, 0))?.errno

  it('loses what the kernel had collected and cannot be written, and says so for good', () => {
    rootfs.isHeld = true
    write(ROOTFS, 4096, Buffer.alloc(8192), { flags: WRITE_CACHE })
    rootfs.answer('NO_SPACE')
    expect(answers.pop()?.errno).toBe(ERRNO.ENOSPC)
    expect(rootfs.lost).toEqual([[4096, 8192]])
    expect(damaged).toEqual([['rootfs', 1, 2, 'NO_SPACE']])
    expect([fsync(), fsync()]).toEqual([ERRNO.EIO, ERRNO.EIO])
  })

  it('loses what it has not written when it closes', () => {
    rootfs.isHeld = true
    write(ROOTFS, SIZE_BYTES - 10, Buffer.alloc(10), { flags: WRITE_CACHE })
    session.close()
    expect(damaged).toEqual([['rootfs', 9, 1, 'CLOSED']])
  })

  it('loses what is written back where a write failed, or was short: the kernel may have forgotten what was stored', () => {
    const last = 9 * 4096
    const failed = (offset: number, data: Buffer): void => {
      rootfs.isHeld = true
      write(ROOTFS, offset, data)
      rootfs.answer('NO_SPACE')
      rootfs.isHeld = false
    }
    const writtenBack = (offset: number, sizeBytes = 4096): number | undefined =>
      write(ROOTFS, offset, Buffer.alloc(sizeBytes), { flags: WRITE_CACHE })?.errno
    failed(5000, Buffer.alloc(4096))
    expect([0, 4096, 8192, 12_288].map(offset => writtenBack(offset))).toEqual([0, ERRNO.EIO, ERRNO.EIO, 0])
    // Written as a whole, it is known again; zeroed, too.
    write(ROOTFS, 4096, Buffer.alloc(4096))
    ask(OPCODE.fallocate, ROOTFS, words(0, 0, 8192, 0, 4096, 0, 3, 0))
    expect([4096, 8192].map(offset => writtenBack(offset))).toEqual([0, 0])
    write(ROOTFS, last - 4096, Buffer.alloc(8192))
    expect([last - 4096, last].map(offset => writtenBack(offset, Math.min(4096, SIZE_BYTES - offset)))).toEqual([0, 0])
    for (const offset of [SIZE_BYTES - 1, SIZE_BYTES]) {
      write(ROOTFS, offset, Buffer.alloc(10))
      expect(writtenBack(last, SIZE_BYTES - last)).toBe(ERRNO.EIO)
      write(ROOTFS, last, Buffer.alloc(4096))
    }
    expect(rootfs.lost.map(([offset]) => offset)).toEqual([4096, 8192, last, last])
  })

  it('loses nothing of which the writer waits for the answer', () => {
    rootfs.isHeld = true
    write(ROOTFS, 4096, Buffer.alloc(8192), { unique: 2n })
    rootfs.answer('NO_SPACE')
    write(ROOTFS, 4096, Buffer.alloc(8192), { unique: 4n })
    session.close()
    expect(answers.map(({ errno }) => errno)).toEqual([ERRNO.ENOSPC, ERRNO.EIO])
    expect([rootfs.lost, damaged, fsync()]).toEqual([[], [], 0])
  })

  it('has the kernel ask again for the attributes of what can be written to, and tells no hole of it', () => {
    rootfs.bytes.fill(0)
    const attributes = (node: number) => ask(OPCODE.getattr, node, words(0, 0, 0, 0))!.body
    expect([attributes(MEMORY), attributes(ROOTFS)].map(body => body.readBigUInt64LE(0) > 1000n)).toEqual([true, false])
    expect(attributes(ROOTFS).readBigUInt64LE(0)).toBe(0n)
    const entry = (name: string) => ask(OPCODE.lookup, 1, Buffer.from(`${name}\0`))!.body
    expect([entry('memory'), entry('rootfs')].map(body => body.readBigUInt64LE(24) > 1000n)).toEqual([true, false])
    expect(entry('rootfs').readBigUInt64LE(24)).toBe(0n)
    expect([attributes(MEMORY), attributes(ROOTFS)].map(body => body.readBigUInt64LE(32))).toEqual([7n * 8n, 10n * 8n])
    const seek = (offset: number, whence: number) => ask(OPCODE.lseek, ROOTFS, words(0, 0, offset, 0, whence, 0))
    expect([seek(5, 3), seek(5, 4)].map(answer => answer?.body.readBigUInt64LE(0))).toEqual([5n, BigInt(SIZE_BYTES)])
    expect(seek(SIZE_BYTES, 3)?.errno).toBe(ERRNO.ENXIO)
  })

  it('knows whether somebody may have written what was not sent yet', () => {
    const [open, release] = [OPCODE.open, OPCODE.release].map(opcode => (flags: number) => {
      ask(opcode, ROOTFS, opcode === OPCODE.open ? words(flags, 0) : words(0, 0, flags, 0, 0, 0))
      return session.hasWriters
    })
    expect([session.hasWriters, open!(0), open!(2), open!(1)]).toEqual([false, false, true, true])
    expect([release!(0), release!(1), release!(2)]).toEqual([true, true, false])
    ask(OPCODE.open, MEMORY, words(2, 0))
    expect(session.hasWriters).toBe(false)
  })

  it('writes where it may', () => {
    expect(write(ROOTFS, 10, Buffer.from('abc'))?.body.readUInt32LE(0)).toBe(3)
    expect(rootfs.bytes.subarray(9, 14)).toEqual(Buffer.from('\x06abc\x06'))
    expect(write(ROOTFS, SIZE_BYTES - 1, Buffer.from('abc'))?.body.readUInt32LE(0)).toBe(1)
    expect(write(ROOTFS, SIZE_BYTES, Buffer.from('abc'))?.errno).toBe(ERRNO.EFBIG)
    expect(write(ROOTFS, 0, Buffer.from('abc'), { sizeBytes: 4 })?.errno).toBe(ERRNO.EINVAL)
    expect(write(MEMORY, 0, Buffer.from('abc'))?.errno).toBe(ERRNO.EROFS)
    expect([OPCODE.open, OPCODE.flush, OPCODE.fsync].map(opcode => ask(opcode, ROOTFS, words(2, 0))?.errno)).toEqual([0, 0, 0])
    expect(ask(OPCODE.open, MEMORY, words(1, 0))?.errno).toBe(ERRNO.EROFS)
  })

  it('seeks over a large image in turns', () => {
    const large = fakeImage('memory', Buffer.alloc(2000 * 4096).fill(1, 1999 * 4096))
    Object.assign(memory, { pageCount: large.pageCount, sizeBytes: large.sizeBytes, stretch: large.stretch })
    expect(ask(OPCODE.lseek, MEMORY, words(0, 0, 5, 0, 3, 0))).toBe(undefined)
    while (later.length > 0) later.shift()!()
    expect(answers.map(({ body }) => body.readBigUInt64LE(0))).toEqual([BigInt(1999 * 4096)])
    expect(ask(OPCODE.lseek, MEMORY, words(0, 0, 5, 0, 4, 0))?.body.readBigUInt64LE(0)).toBe(5n)
    expect(ask(OPCODE.lseek, MEMORY, words(0, 0, large.sizeBytes, 0, 4, 0))?.errno).toBe(ERRNO.ENXIO)
    ask(OPCODE.lseek, MEMORY, words(0, 0, 5, 0, 3, 0))
    session.close()
    const before = answers.length
    while (later.length > 0) later.shift()!()
    expect(answers).toHaveLength(before)
  })

  it('lists the folder in pieces', () => {
    const { body: first } = ask(OPCODE.readdir, 1, words(0, 0, 0, 0, 70, 0))!
    const next = first.readUInt32LE(first.length - 32 + 8)
    const { body: rest } = ask(OPCODE.readdir, 1, words(0, 0, next, 0, 4096, 0))!
    expect(first).toHaveLength(64)
    expect([rest.subarray(24, 30).toString(), rest.subarray(56, 62).toString(), rest.length]).toEqual(['memory', 'rootfs', 64])
    expect(ask(OPCODE.readdir, 1, words(0, 0, 4, 0, 4096, 0))?.body).toHaveLength(0)
  })

  it('answers anything, once, or not at all where nobody waits', () => {
    const silent: readonly number[] = [OPCODE.forget, OPCODE.batchForget, OPCODE.interrupt]
    fc.assert(
      fc.property(
        fc.nat(60),
        fc.nat(5),
        fc.array(fc.oneof(fc.nat(20), fc.integer({ min: 0, max: 2 ** 32 - 1 })), { minLength: 22, maxLength: 30 }),
        (opcode, node, body) => {
          const before = answers.length
          ask(opcode, node, words(...body))
          while (later.length > 0) later.shift()!()
          expect(answers.length - before).toBe(silent.includes(opcode) ? 0 : 1)
        },
      ),
      { numRuns: 3000 },
    )
  })
})
