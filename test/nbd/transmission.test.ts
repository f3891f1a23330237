import fc from 'fast-check'
import { beforeEach, describe, expect, it } from 'vitest'
import { PAGE_BYTES } from '../../src/chunk.ts'
import { CHUNK, COMMAND, COMMAND_FLAG, NBD_ERROR } from '../../src/frontend/nbd/protocol.ts'
import { agreedTalk, assemble, CLIENT_FLAGS, replies, request, Talk } from './client.ts'
import { FakeImage } from './fake-image.ts'

const PAGES = 600
const TAIL_BYTES = 100

/** Every byte differs from those of its neighbouring pages; pages 100 to 149 and page 3 are zero, the last one is short. */
function content(): Buffer {
  const bytes = Buffer.alloc(PAGES * PAGE_BYTES + TAIL_BYTES)
  for (let at = 0; at < bytes.length; at++) bytes[at] = 1 + ((at + Math.floor(at / PAGE_BYTES)) % 251)
  bytes.fill(0, 100 * PAGE_BYTES, 150 * PAGE_BYTES)
  bytes.fill(0, 3 * PAGE_BYTES, 4 * PAGE_BYTES)
  return bytes
}

const original = content()
let image: FakeImage
beforeEach(() => {
  image = new FakeImage(Buffer.from(original), true)
})

const errorOf = (bytes: Buffer): number => {
  const [reply] = replies(bytes)
  if (reply?.kind === 'simple') return reply.error
  return reply?.type === CHUNK.error ? reply.data.readUInt32BE() : NBD_ERROR.none
}

describe('reading', () => {
  it.each([
    [0, 512],
    [4095, 2],
    [5 * PAGE_BYTES, PAGE_BYTES],
    [2 * PAGE_BYTES + 1, 5 * PAGE_BYTES],
    [90 * PAGE_BYTES - 7, 100 * PAGE_BYTES],
    [0, original.length],
    [original.length - 1, 1],
  ])('gives bytes at %i, %i of them, in simple and in structured replies', (offset, length) => {
    const expected = original.subarray(offset, offset + length)
    const simple = replies(agreedTalk(image, { isStructured: false }).say(request(COMMAND.read, { offset, length })), () => length)
    expect(simple).toHaveLength(1)
    expect(simple[0]!.data.equals(expected)).toBe(true)
    const chunks = replies(agreedTalk(image).say(request(COMMAND.read, { offset, length })))
    expect(assemble(chunks, offset, length).equals(expected)).toBe(true)
    expect(chunks.map(chunk => chunk.kind === 'chunk' && chunk.isDone)).toEqual([...chunks.slice(1).map(() => false), true])
  })

  it('sends a long run of zeros as a hole, a short one as bytes', () => {
    const types = (offset: number, length: number, flags = 0): number[] =>
      replies(agreedTalk(image).say(request(COMMAND.read, { offset, length, flags }))).map(chunk =>
        chunk.kind === 'chunk' ? chunk.type : -1,
      )
    expect(types(99 * PAGE_BYTES, 60 * PAGE_BYTES)).toEqual([CHUNK.offsetData, CHUNK.offsetHole, CHUNK.offsetData])
    expect(types(2 * PAGE_BYTES, 3 * PAGE_BYTES)).toEqual([CHUNK.offsetData])
    expect(types(3 * PAGE_BYTES + 5, 100)).toEqual([CHUNK.offsetHole])
    expect(types(99 * PAGE_BYTES, 60 * PAGE_BYTES, COMMAND_FLAG.dontFragment)).toEqual([CHUNK.offsetData])
  })

  it('answers what comes later when it comes, and others meanwhile', () => {
    const talk = agreedTalk(image)
    image.missing.add(10)
    const ask = (page: number): Buffer => request(COMMAND.read, { cookie: page, offset: page * PAGE_BYTES, length: PAGE_BYTES })
    expect(replies(talk.say(ask(10), ask(11))).map(({ cookie }) => cookie)).toEqual([11])
    image.settle(10)
    const [late] = replies(talk.wire.takeSent())
    expect(assemble([late!], 10 * PAGE_BYTES, PAGE_BYTES).equals(original.subarray(10 * PAGE_BYTES, 11 * PAGE_BYTES))).toBe(true)
  })

  it('answers what cannot be had with an error, and goes on', () => {
    for (const isStructured of [true, false]) {
      const talk = agreedTalk(image, { isStructured })
      image.missing.add(10)
      talk.say(request(COMMAND.read, { offset: 10 * PAGE_BYTES, length: PAGE_BYTES }))
      image.settle(10, { code: 'CORRUPT' })
      expect(errorOf(talk.wire.takeSent())).toBe(5)
      expect(talk.unreadable).toEqual(['CORRUPT'])
      const [next] = replies(talk.say(request(COMMAND.read, { length: 1 })), () => 1)
      expect(next).toMatchObject(isStructured ? { type: CHUNK.offsetData } : { error: NBD_ERROR.none })
    }
  })

  it('ends when a simple reply that was begun cannot be completed', () => {
    const talk = agreedTalk(image, { isStructured: false })
    image.missing.add(PAGES - 1)
    const begun = talk.say(request(COMMAND.read, { length: original.length }))
    expect(begun.length).toBeGreaterThan(PAGE_BYTES)
    expect(begun.subarray(16).equals(original.subarray(0, begun.length - 16))).toBe(true)
    image.settle(PAGES - 1, { code: 'UNAVAILABLE' })
    expect(talk.session.isOver).toBe(true)
    expect(talk.wire.takeSent()).toHaveLength(0)
  })

  it('sends nothing between the pieces of a simple reply', () => {
    const talk = agreedTalk(image, { isStructured: false })
    image.missing.add(PAGES - 1).add(5)
    const first = talk.say(
      request(COMMAND.read, { cookie: 5, offset: 5 * PAGE_BYTES, length: 8 }),
      request(COMMAND.read, { cookie: 6, offset: 6 * PAGE_BYTES, length: original.length - 6 * PAGE_BYTES }),
    )
    image.settle(5)
    expect(talk.wire.takeSent()).toHaveLength(0)
    image.settle(PAGES - 1)
    const sizes: Readonly<Record<number, number>> = { 5: 8, 6: original.length - 6 * PAGE_BYTES }
    const found = replies(Buffer.concat([first, talk.wire.takeSent()]), cookie => sizes[cookie]!)
    expect(found.map(({ cookie }) => cookie)).toEqual([6, 5])
    expect(found[0]!.data.equals(original.subarray(6 * PAGE_BYTES))).toBe(true)
    expect(found[1]!.data.equals(original.subarray(5 * PAGE_BYTES, 5 * PAGE_BYTES + 8))).toBe(true)
  })

  it('takes no more requests than it may have under way', () => {
    const talk = agreedTalk(image)
    image.missing.add(10)
    const ask = request(COMMAND.read, { offset: 10 * PAGE_BYTES, length: 1 })
    talk.say(...Array.from({ length: 100 }, () => ask))
    expect(image.waiting).toHaveLength(64)
    expect(talk.session.wants).toBe('nothing')
    image.settle(10)
    expect(replies(talk.wire.takeSent())).toHaveLength(100)
  })

  it('does not read for a peer who does not take replies, and gives them when he does', () => {
    const talk = agreedTalk(image)
    image.missing.add(10)
    const ask = (page: number): Buffer => request(COMMAND.read, { cookie: page, offset: page * PAGE_BYTES, length: 16 * PAGE_BYTES })
    talk.say(ask(10))
    talk.wire.room = 1000
    const first = talk.say(...Array.from({ length: 40 }, (_, index) => ask(200 + index)))
    image.settle(10)
    expect(talk.wire.keptBytesMax).toBeLessThan(3 * 16 * PAGE_BYTES)
    const reads = image.reads
    talk.work()
    expect(image.reads).toBe(reads)
    const later: Buffer[] = []
    for (let turn = 0; turn < 2000 && (talk.restBytes > 0 || talk.wire.isBlocked); turn++) {
      talk.wire.drain(5000)
      if (!talk.wire.isBlocked) talk.work()
      later.push(talk.wire.takeSent())
    }
    talk.wire.drain(2 ** 30)
    talk.work()
    const found = replies(Buffer.concat([first, ...later, talk.wire.takeSent()]))
    expect(found).toHaveLength(41)
    for (const reply of found) {
      const offset = reply.cookie * PAGE_BYTES
      expect(assemble([reply], offset, 16 * PAGE_BYTES).equals(original.subarray(offset, offset + 16 * PAGE_BYTES))).toBe(true)
    }
  })
})

describe('writing', () => {
  it('takes a payload in whole pages as it comes, and the rest at its end', () => {
    const talk = agreedTalk(image)
    const payload = Buffer.alloc(3 * PAGE_BYTES, 0x55)
    const all = request(COMMAND.write, { offset: 1000, payload })
    const sent = [all.subarray(0, 5000), all.subarray(5000, 5001), all.subarray(5001)].map(part => talk.say(part))
    expect(sent.map(({ length }) => length)).toEqual([0, 0, 16])
    const expected = Buffer.from(original)
    payload.copy(expected, 1000)
    expect(image.bytes.equals(expected)).toBe(true)
  })

  it('takes nothing behind a write that waits', () => {
    const talk = agreedTalk(image)
    image.missing.add(0)
    talk.say(
      request(COMMAND.write, { cookie: 1, payload: Buffer.alloc(PAGE_BYTES, 1) }),
      request(COMMAND.read, { cookie: 2, offset: PAGE_BYTES, length: 1 }),
    )
    expect(talk.session.wants).toBe('nothing')
    image.settle(0)
    expect(replies(talk.wire.takeSent()).map(({ cookie }) => cookie)).toEqual([1, 2])
  })

  it('answers a write without room with ENOSPC, after all of it has come', () => {
    const talk = agreedTalk(image)
    image.writeError = 'NO_SPACE'
    const all = request(COMMAND.write, { payload: Buffer.alloc(4 * PAGE_BYTES, 1) })
    expect(talk.say(all.subarray(0, PAGE_BYTES + 28))).toHaveLength(0)
    expect(errorOf(talk.say(all.subarray(PAGE_BYTES + 28)))).toBe(NBD_ERROR.noSpace)
    expect(talk.unreadable).toEqual([])
    expect(image.bytes.equals(original)).toBe(true)
  })

  it('flushes nothing of an image that lost a write', () => {
    const talk = agreedTalk(image)
    image.isDamaged = true
    expect(errorOf(talk.say(request(COMMAND.flush)))).toBe(NBD_ERROR.io)
    expect(errorOf(talk.say(request(COMMAND.write, { payload: Buffer.alloc(1) })))).toBe(NBD_ERROR.none)
  })

  it('zeroes, and gives up whole pages', () => {
    const talk = agreedTalk(image)
    const expected = Buffer.from(original)
      .fill(0, 5000, 15_000)
      .fill(0, 5 * PAGE_BYTES, 7 * PAGE_BYTES)
      .fill(0, 20 * PAGE_BYTES + 7, 90 * PAGE_BYTES)
    expect(errorOf(talk.say(request(COMMAND.writeZeroes, { offset: 5000, length: 10_000 })))).toBe(NBD_ERROR.none)
    expect(errorOf(talk.say(request(COMMAND.trim, { offset: 5 * PAGE_BYTES - 1, length: 3 * PAGE_BYTES })))).toBe(NBD_ERROR.none)
    const noHole = { offset: 20 * PAGE_BYTES + 7, length: 70 * PAGE_BYTES - 7, flags: COMMAND_FLAG.noHole }
    expect(errorOf(talk.say(request(COMMAND.writeZeroes, noHole)))).toBe(NBD_ERROR.none)
    expect(errorOf(talk.say(request(COMMAND.trim, { offset: 1, length: 2 })))).toBe(NBD_ERROR.none)
    expect(errorOf(talk.say(request(COMMAND.flush)))).toBe(NBD_ERROR.none)
    expect(image.bytes.equals(expected)).toBe(true)
  })

  it('gives up the short last page with what is before it', () => {
    const talk = agreedTalk(image)
    const trim = (pages: number) => request(COMMAND.trim, { offset: (PAGES - pages) * PAGE_BYTES, length: pages * PAGE_BYTES + TAIL_BYTES })
    expect(errorOf(talk.say(trim(2)))).toBe(NBD_ERROR.none)
    expect(image.bytes.equals(Buffer.from(original).fill(0, (PAGES - 2) * PAGE_BYTES))).toBe(true)
    image.bytes.set(original)
    expect(errorOf(talk.say(trim(0)))).toBe(NBD_ERROR.none)
    expect(image.bytes.equals(Buffer.from(original).fill(0, PAGES * PAGE_BYTES))).toBe(true)
  })
})

describe('what cannot be done', () => {
  const end = original.length
  it.each([
    ['a read beyond the end', COMMAND.read, { offset: end - 1, length: 2 }, NBD_ERROR.invalid],
    ['a read beyond 2^63', COMMAND.read, { offset: Number.MAX_SAFE_INTEGER, length: 2 }, NBD_ERROR.invalid],
    ['a read of too much', COMMAND.read, { length: 2 ** 25 + 1 }, NBD_ERROR.invalid],
    ['an unfragmented read of too much', COMMAND.read, { length: 2 ** 20 + 1, flags: COMMAND_FLAG.dontFragment }, NBD_ERROR.overflow],
    ['a write beyond the end', COMMAND.write, { offset: end - 1, payload: Buffer.alloc(2) }, NBD_ERROR.noSpace],
    ['zeroes beyond the end', COMMAND.writeZeroes, { offset: end, length: 1 }, NBD_ERROR.noSpace],
    ['a trim beyond the end', COMMAND.trim, { offset: end, length: 1 }, NBD_ERROR.invalid],
    ['a status beyond the end', COMMAND.blockStatus, { offset: end, length: 1 }, NBD_ERROR.invalid],
    ['a status of nothing', COMMAND.blockStatus, {}, NBD_ERROR.invalid],
    ['a cache request of too much', COMMAND.cache, { length: 2 ** 31 }, NBD_ERROR.invalid],
    ['an unknown command', 12, {}, NBD_ERROR.invalid],
    ['a flag of another command', COMMAND.read, { length: 1, flags: COMMAND_FLAG.requestOne }, NBD_ERROR.invalid],
    ['an unknown flag', COMMAND.flush, { flags: 0x100 }, NBD_ERROR.invalid],
    [
      'fast zeroes that take up room',
      COMMAND.writeZeroes,
      { length: 1, flags: COMMAND_FLAG.noHole | COMMAND_FLAG.fastZero },
      NBD_ERROR.unsupported,
    ],
  ])('%s is answered so, and others after it as ever', (_what, command, asked, error) => {
    const talk = agreedTalk(image)
    const both = talk.say(request(command, asked), request(COMMAND.read, { cookie: 2, length: 1 }))
    const found = replies(both)
    expect(errorOf(both)).toBe(error)
    expect(found.at(-1)).toMatchObject({ cookie: 2, type: CHUNK.offsetData })
    expect(image.bytes.equals(original)).toBe(true)
  })

  it.each([
    ['a write', COMMAND.write, { payload: Buffer.alloc(9000) }],
    ['a trim', COMMAND.trim, { length: PAGE_BYTES }],
    ['zeroes', COMMAND.writeZeroes, { length: PAGE_BYTES }],
  ])('%s of a read-only export is not permitted', (_what, command, asked) => {
    const talk = agreedTalk(new FakeImage(image.bytes))
    expect(errorOf(talk.say(request(command, asked)))).toBe(NBD_ERROR.permission)
    expect(image.bytes.equals(original)).toBe(true)
  })

  it('another magic, or a payload without bounds, ends the session', () => {
    for (const bytes of [Buffer.alloc(28, 9), request(COMMAND.write, { length: 2 ** 25 + 1 })]) {
      const talk = agreedTalk(image)
      talk.say(bytes)
      expect(talk.session.isOver).toBe(true)
    }
  })

  it('nothing is done twice or lost when nothing is asked for', () => {
    const talk = agreedTalk(image)
    for (const command of [COMMAND.read, COMMAND.write, COMMAND.trim, COMMAND.writeZeroes, COMMAND.cache]) {
      const found = replies(talk.say(request(command, { offset: end })))
      expect(found).toHaveLength(1)
      expect(errorOf(talk.say(request(command, { offset: end })))).toBe(NBD_ERROR.none)
    }
  })
})

describe('the rest', () => {
  it('tells holes, one of them where one is asked for', () => {
    const talk = agreedTalk(image)
    const status = (offset: number, length: number, flags = 0): number[] => {
      const [reply] = replies(talk.say(request(COMMAND.blockStatus, { offset, length, flags })))
      return Array.from({ length: reply!.data.length / 4 }, (_, index) => reply!.data.readUInt32BE(4 * index))
    }
    expect(status(2 * PAGE_BYTES + 1, 200 * PAGE_BYTES)).toEqual([
      1,
      4095,
      0,
      4096,
      3,
      96 * PAGE_BYTES,
      0,
      50 * PAGE_BYTES,
      3,
      52 * PAGE_BYTES + 1,
      0,
    ])
    expect(status(100 * PAGE_BYTES, 60 * PAGE_BYTES, COMMAND_FLAG.requestOne)).toEqual([1, 50 * PAGE_BYTES, 3])
    expect(status(100 * PAGE_BYTES, 10)).toEqual([1, 10, 3])
    expect(status(original.length - 1, 1)).toEqual([1, 1, 0])
  })

  it('refuses a status without a context', () => {
    expect(errorOf(agreedTalk(image, { isStructured: false }).say(request(COMMAND.blockStatus, { length: 1 })))).toBe(NBD_ERROR.invalid)
  })

  it('has pages there before it answers CACHE', () => {
    const talk = agreedTalk(image)
    image.missing.add(400)
    expect(talk.say(request(COMMAND.cache, { length: original.length }))).toHaveLength(0)
    image.settle(400)
    expect(replies(talk.wire.takeSent())).toMatchObject([{ kind: 'simple', error: 0 }])
  })

  it('answers what is under way before it ends at DISC, and takes nothing after it', () => {
    const talk = agreedTalk(image)
    image.missing.add(10)
    const ask = request(COMMAND.read, { offset: 10 * PAGE_BYTES, length: 1 })
    talk.say(ask, request(COMMAND.disconnect), ask)
    expect(talk.session.isOver).toBe(false)
    image.settle(10)
    expect(replies(talk.wire.takeSent())).toHaveLength(1)
    expect(talk.session.isOver).toBe(true)
  })

  it('takes everything back when it is closed', () => {
    const talk = agreedTalk(image)
    image.missing.add(10)
    talk.say(request(COMMAND.read, { offset: 10 * PAGE_BYTES, length: 1 }))
    talk.session.close()
    expect(image.waiting).toHaveLength(0)
  })
})

describe('whatever comes', () => {
  const small = new FakeImage(Buffer.alloc(20 * PAGE_BYTES, 3), true)
  const sane = fc.record({
    command: fc.integer({ min: 0, max: 9 }),
    flags: fc.constantFrom(0, 0, 0, 1, 2, 4, 8, 16, 0x8000),
    offset: fc.integer({ min: 0, max: 22 * PAGE_BYTES }),
    length: fc.integer({ min: 0, max: 5 * PAGE_BYTES }),
  })
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 200 }).map(array => Buffer.from(array)),
    sane.map(({ command, ...asked }) =>
      request(command, { ...asked, payload: command === COMMAND.write ? Buffer.alloc(asked.length, 8) : Buffer.alloc(0) }),
    ),
  )

  it('a session answers or ends, throws nothing and keeps little', () => {
    fc.assert(
      fc.property(
        fc.boolean(),
        fc.array(bytes, { maxLength: 30 }),
        fc.array(fc.integer({ min: 1, max: 9000 }), { maxLength: 40 }),
        (isAgreed, parts, cuts) => {
          const talk = isAgreed ? agreedTalk(small) : new Talk(small)
          if (!isAgreed) talk.say(CLIENT_FLAGS)
          const all = Buffer.concat(parts)
          let at = 0
          for (const cut of [...cuts, all.length]) {
            talk.say(all.subarray(at, at + cut))
            at += cut
            expect(talk.session.isOver || talk.restBytes <= 17_000).toBe(true)
          }
          talk.session.close()
        },
      ),
      { numRuns: 500 },
    )
  })

  it('requests are answered as by a plain array of bytes', () => {
    fc.assert(
      fc.property(fc.array(sane, { maxLength: 20 }), asked => {
        const model = Buffer.alloc(8 * PAGE_BYTES + 50, 5)
        const written = new FakeImage(Buffer.from(model), true)
        const talk = agreedTalk(written)
        for (const [index, { command, ...what }] of asked.entries()) {
          if (command === COMMAND.disconnect) continue
          const payload = command === COMMAND.write ? Buffer.alloc(what.length, index + 1) : Buffer.alloc(0)
          const found = replies(talk.say(request(command, { ...what, payload })))
          const expected = isPossible(command, what, model.length) ? apply(model, command, what, payload) : undefined
          if (expected !== undefined) expect(assemble(found, what.offset, what.length).equals(expected)).toBe(true)
          expect(written.bytes.equals(model)).toBe(true)
        }
      }),
      { numRuns: 300 },
    )
  })
})

interface Where {
  readonly flags: number
  readonly offset: number
  readonly length: number
}

const FLAGS: Readonly<Record<number, readonly number[]>> = {
  [COMMAND.read]: [0, COMMAND_FLAG.fua, COMMAND_FLAG.dontFragment],
  [COMMAND.write]: [0, COMMAND_FLAG.fua],
  [COMMAND.trim]: [0, COMMAND_FLAG.fua],
  [COMMAND.writeZeroes]: [0, COMMAND_FLAG.fua, COMMAND_FLAG.noHole, COMMAND_FLAG.fastZero],
}

function isPossible(command: number, { flags, offset, length }: Where, sizeBytes: number): boolean {
  return FLAGS[command]?.includes(flags) === true && offset + length <= sizeBytes
}

/** Does it; returns what a read gives. */
function apply(model: Buffer, command: number, { offset, length }: Where, payload: Buffer): Buffer | undefined {
  const end = offset + length
  if (command === COMMAND.read) return model.subarray(offset, end)
  if (command === COMMAND.write) payload.copy(model, offset)
  else if (command === COMMAND.writeZeroes) model.fill(0, offset, end)
  else {
    const first = Math.ceil(offset / PAGE_BYTES) * PAGE_BYTES
    const last = end === model.length ? end : Math.floor(end / PAGE_BYTES) * PAGE_BYTES
    if (last > first) model.fill(0, first, last)
  }
  return undefined
}
