/** What a Redis server may send, in whatever pieces, and what it may not. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { ReplyGuard } from '../../src/cache/redis-replies.ts'

const accepts = (text: string, awaited: number): boolean => new ReplyGuard().accepts(Buffer.from(text, 'latin1'), awaited)

const bulk = fc.string({ unit: 'binary-ascii', maxLength: 20 }).map(text => `$${text.length}\r\n${text}\r\n`)
const leaf = fc.oneof(
  bulk,
  fc.constantFrom('+OK\r\n', '-ERR no\r\n', ':-12\r\n', '$-1\r\n', '*-1\r\n', '*0\r\n', '-MOVED 3 127.0.0.1:7000\r\n'),
)
const { reply } = fc.letrec<{ reply: string }>(tie => ({
  reply: fc.oneof(
    { depthSize: 'small', maxDepth: 4 },
    leaf,
    fc.array(tie('reply'), { minLength: 1, maxLength: 4 }).map(items => `*${items.length}\r\n${items.join('')}`),
  ),
}))

describe('replies', () => {
  it('that are awaited pass, cut anywhere', () => {
    fc.assert(
      fc.property(fc.array(reply, { maxLength: 6 }), fc.array(fc.nat(200), { maxLength: 6 }), (replies, cuts) => {
        const bytes = Buffer.from(replies.join(''), 'latin1')
        const guard = new ReplyGuard()
        const ends = [...cuts.filter(cut => cut < bytes.length).sort((a, b) => a - b), bytes.length]
        // More are awaited than come, as when the pieces are counted: how many have ended before is not known here.
        for (const [index, end] of ends.entries())
          expect(guard.accepts(bytes.subarray(ends[index - 1] ?? 0, end), replies.length)).toBe(true)
        if (replies.length > 0) expect(guard.accepts(Buffer.from('+'), 1)).toBe(true)
      }),
    )
  })

  it('that nobody asked for do not pass', () => {
    fc.assert(
      fc.property(fc.array(reply, { minLength: 1, maxLength: 6 }), replies => {
        expect(accepts(replies.join(''), replies.length)).toBe(true)
        expect(accepts(replies.join(''), replies.length - 1)).toBe(false)
      }),
    )
  })

  it.each([
    ['another type', '?1\r\n'],
    ['a null of RESP 3', '_\r\n'],
    ['a push of RESP 3', '>1\r\n+a\r\n'],
    ['a length that is no number', '$1x\r\n'],
    ['a negative length', '$-2\r\n'],
    ['a length beyond reason', '$999999999\r\n'],
    ['too many elements', '*99999999\r\n'],
    ['a number that is none', ':1.5\r\n'],
    ['a lone line feed', '+OK\n'],
    ['a line without end', `+${'x'.repeat(5_000)}`],
    ['arrays without end', '*1\r\n'.repeat(9)],
    ['a slot that moved to nowhere', '-MOVED 3\r\n'],
    ['a slot that moved to no port', '-MOVED 3 127.0.0.1\r\n'],
    ['a slot that is asked for elsewhere, without a host', '-ASK 3 :7000\r\n'],
  ])('are not %s', (_, text) => {
    expect(accepts(text, 9)).toBe(false)
  })

  it('skip values, whatever is in them', () => {
    const guard = new ReplyGuard()
    expect(guard.accepts(Buffer.from('$12\r\n?\r\n*9'), 1)).toBe(true)
    expect(guard.accepts(Buffer.from('9\r\n$5\r'), 1)).toBe(true)
    expect(guard.accepts(Buffer.from('x\r\n'), 1)).toBe(true)
    expect(guard.accepts(Buffer.from('+OK\r\n'), 0)).toBe(false)
  })
})
