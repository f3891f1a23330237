import { describe, expect, it } from 'vitest'
import { INFORMATION, OPTION, OPTION_REPLY, TRANSMISSION_FLAG } from '../../src/frontend/nbd/protocol.ts'
import { CLIENT_FLAGS, contexts, go, option, optionReplies, Talk, u32 } from './client.ts'
import { FakeImage } from './fake-image.ts'

const image = new FakeImage(Buffer.alloc(3 * 4096 + 100, 7))

/** A talk in which flags were exchanged, and nothing else. */
function talk(isTlsRequired = false, isWritable = false): Talk {
  const begun = new Talk(isWritable ? new FakeImage(image.bytes, true) : image, isTlsRequired)
  begun.say(CLIENT_FLAGS)
  return begun
}

const types = (bytes: Buffer): number[] => optionReplies(bytes).map(({ type }) => type)

describe('the handshake', () => {
  it('greets as fixed newstyle without zeroes', () => {
    expect(new Talk(image).wire.takeSent()).toEqual(Buffer.concat([Buffer.from('NBDMAGICIHAVEOPT'), Buffer.from([0, 3])]))
  })

  it.each([
    ['an unknown flag', u32(7)],
    ['another magic', Buffer.concat([CLIENT_FLAGS, Buffer.alloc(16, 1)])],
  ])('ends at %s', (_what, bytes) => {
    const begun = new Talk(image)
    begun.say(bytes)
    expect(begun.session.isOver).toBe(true)
  })

  it.each(['', 'rootfs'])('goes on to requests by GO of %j, with the size, the flags, and what was asked for', name => {
    const begun = talk()
    const replies = optionReplies(begun.say(option(OPTION.go, go(name, INFORMATION.blockSize, INFORMATION.name, 77))))
    expect(replies.map(({ type }) => type)).toEqual([OPTION_REPLY.info, OPTION_REPLY.info, OPTION_REPLY.info, OPTION_REPLY.ack])
    const [size, canonical, blocks] = replies
    expect(size!.data.readBigUInt64BE(2)).toBe(BigInt(image.sizeBytes))
    expect(size!.data.readUInt16BE(10)).toBe(
      TRANSMISSION_FLAG.hasFlags | TRANSMISSION_FLAG.readOnly | TRANSMISSION_FLAG.canMultiConn | TRANSMISSION_FLAG.sendCache,
    )
    expect(canonical!.data.toString('utf8', 2)).toBe('rootfs')
    expect([2, 6, 10].map(at => blocks!.data.readUInt32BE(at))).toEqual([1, 4096, 32 * 2 ** 20])
    expect(begun.session.isAgreed).toBe(true)
  })

  it('tells a writable export by its flags, and of DF only with structured replies', () => {
    const begun = talk(false, true)
    const flags = (): number => optionReplies(begun.say(option(OPTION.info, go(''))))[0]!.data.readUInt16BE(10)
    expect(flags() & TRANSMISSION_FLAG.readOnly).toBe(0)
    expect(flags() & TRANSMISSION_FLAG.sendWriteZeroes).not.toBe(0)
    expect(flags() & TRANSMISSION_FLAG.sendDontFragment).toBe(0)
    begun.say(option(OPTION.structuredReply))
    expect(flags() & TRANSMISSION_FLAG.sendDontFragment).not.toBe(0)
    expect(begun.session.isAgreed).toBe(false)
  })

  it('lists the export', () => {
    const [server, end] = optionReplies(talk().say(option(OPTION.list)))
    expect(server).toMatchObject({ type: OPTION_REPLY.server, data: Buffer.concat([u32(6), Buffer.from('rootfs')]) })
    expect(end!.type).toBe(OPTION_REPLY.ack)
  })

  it('answers EXPORT_NAME without a header, with zeroes for who wants them', () => {
    expect(talk().say(option(OPTION.exportName, Buffer.from('rootfs')))).toHaveLength(10)
    const old = new Talk(image)
    old.say(u32(1))
    expect(old.say(option(OPTION.exportName))).toHaveLength(134)
    expect(old.session.isAgreed).toBe(true)
  })

  it('ends at EXPORT_NAME of another name, and after ABORT', () => {
    const begun = talk()
    expect(begun.say(option(OPTION.exportName, Buffer.from('other')))).toHaveLength(0)
    expect(begun.session.isOver).toBe(true)
    const aborted = talk()
    expect(types(aborted.say(option(OPTION.abort)))).toEqual([OPTION_REPLY.ack])
    expect(aborted.session.isOver).toBe(true)
  })

  it.each([
    ['GO of another name', option(OPTION.go, go('other')), OPTION_REPLY.unknown],
    ['GO whose name is longer than it', option(OPTION.go, Buffer.concat([u32(100), Buffer.alloc(6)])), OPTION_REPLY.invalid],
    ['GO with bytes behind', option(OPTION.go, Buffer.concat([go(''), Buffer.alloc(1)])), OPTION_REPLY.invalid],
    ['GO of nothing', option(OPTION.go), OPTION_REPLY.invalid],
    ['LIST with data', option(OPTION.list, Buffer.alloc(1)), OPTION_REPLY.invalid],
    ['STRUCTURED_REPLY with data', option(OPTION.structuredReply, Buffer.alloc(1)), OPTION_REPLY.invalid],
    ['contexts before structured replies', option(OPTION.setMetaContext, contexts('', 'base:allocation')), OPTION_REPLY.invalid],
    ['STARTTLS without TLS', option(OPTION.startTls), OPTION_REPLY.policy],
    ['an unknown option', option(99), OPTION_REPLY.unsupported],
    ['an option of the protocol that is not spoken', option(11), OPTION_REPLY.unsupported],
    ['an option that is too long', option(OPTION.info, Buffer.alloc(20_000)), OPTION_REPLY.tooBig],
  ])('answers %s with an error and goes on', (_what, bytes, error) => {
    const begun = talk()
    expect(types(begun.say(bytes))).toEqual([error])
    expect(types(begun.say(option(OPTION.go, go(''))))).toContain(OPTION_REPLY.ack)
  })

  it('selects and lists base:allocation, and nothing that is not there', () => {
    const begun = talk()
    begun.say(option(OPTION.structuredReply))
    const set = (...queries: readonly string[]): number[] => types(begun.say(option(OPTION.setMetaContext, contexts('', ...queries))))
    const list = (...queries: readonly string[]): number[] => types(begun.say(option(OPTION.listMetaContext, contexts('', ...queries))))
    const { metaContext, ack } = OPTION_REPLY
    expect(set('base:allocation', 'qemu:dirty')).toEqual([metaContext, ack])
    expect(set()).toEqual([ack])
    expect(set('base:')).toEqual([ack])
    expect(list()).toEqual([metaContext, ack])
    expect(list('base:')).toEqual([metaContext, ack])
    expect(list('x-y:z')).toEqual([ack])
    const long = Buffer.concat([contexts(''), Buffer.alloc(1)])
    expect(types(begun.say(option(OPTION.listMetaContext, long)))).toEqual([OPTION_REPLY.invalid])
  })

  it('takes any cut of the bytes', () => {
    const begun = new Talk(image)
    const all = Buffer.concat([CLIENT_FLAGS, option(OPTION.structuredReply), option(OPTION.go, go('rootfs', 3))])
    const sent = [...all].map(byte => begun.say(Buffer.from([byte])))
    // Before its replies it greeted.
    expect(types(Buffer.concat(sent).subarray(18))).toContain(OPTION_REPLY.ack)
    expect(begun.session.isAgreed).toBe(true)
  })

  it('does not go on for ever', () => {
    const begun = talk()
    for (let i = 0; i < 65 && !begun.session.isOver; i++) begun.say(option(OPTION.list))
    expect(begun.session.isOver).toBe(true)
  })
})

describe('where TLS is on', () => {
  it('refuses all before it', () => {
    const begun = talk(true)
    for (const number of [OPTION.list, OPTION.info, OPTION.go, OPTION.structuredReply, 99]) {
      expect(types(begun.say(option(number, go(''))))).toEqual([OPTION_REPLY.tlsRequired])
    }
    begun.say(option(OPTION.exportName))
    expect(begun.session.isOver).toBe(true)
  })

  it('forgets what was said before it, and does not begin twice', () => {
    const begun = talk(true)
    expect(types(begun.say(option(OPTION.startTls)))).toEqual([OPTION_REPLY.ack])
    expect(begun.session.awaitsTls).toBe(true)
    begun.session.secured()
    expect(types(begun.say(option(OPTION.startTls)))).toEqual([OPTION_REPLY.invalid])
    expect(types(begun.say(option(OPTION.go, go(''))))).toContain(OPTION_REPLY.ack)
  })

  it('takes nothing that came along with the request for TLS', () => {
    const begun = talk(true)
    begun.say(option(OPTION.startTls), option(OPTION.list))
    expect(begun.session.awaitsTls).toBe(true)
    expect(begun.restBytes).toBe(16)
  })
})
