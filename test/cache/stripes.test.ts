/** Four data stripes and their parity. */
import { randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { join, parseStripe, STRIPES, type Stripe, split } from '../../src/cache/stripes.ts'

function parsed(value: Uint8Array): Stripe[] {
  return split(value).map(bytes => parseStripe(bytes)!)
}

describe('stripes', () => {
  it('give the value back from any four of them, in any order, into memory that lies anyhow', () => {
    const cases = fc.record({
      value: fc.uint8Array({ maxLength: 300 }),
      lost: fc.nat(STRIPES - 1),
      turn: fc.nat(3),
      offset: fc.nat(7),
    })
    fc.assert(
      fc.property(cases, ({ value, lost, turn, offset }) => {
        const left = parsed(value).filter(({ index }) => index !== lost)
        const target = new Uint8Array(offset + value.length + 5).fill(0xee)
        join([...left.slice(turn), ...left.slice(0, turn)], target.subarray(offset))
        expect(Buffer.compare(target.subarray(offset, offset + value.length), value)).toBe(0)
        expect(target.subarray(0, offset).every(byte => byte === 0xee)).toBe(true)
        expect(target.subarray(offset + value.length).every(byte => byte === 0xee)).toBe(true)
      }),
    )
  })

  it.each([0, 1, 2, 3, 4])('give back a chunk without stripe %i, from stripes that lie unaligned', lost => {
    const value = randomBytes(528_384)
    const shifted = split(value).map(stripe => Buffer.concat([Buffer.alloc(1), stripe]).subarray(1))
    const target = new Uint8Array(new SharedArrayBuffer(value.length))
    join(
      shifted.map(bytes => parseStripe(bytes)!).filter(({ index }) => index !== lost),
      target,
    )
    expect(Buffer.compare(target, value)).toBe(0)
  })

  it('cost a quarter more, and a header each', () => {
    expect(split(randomBytes(528_384)).map(({ length }) => length)).toEqual(Array(5).fill(8 + 132_096))
  })

  it('are no views of the value', () => {
    const value = randomBytes(100)
    const before = Buffer.from(value)
    const stripes = parsed(value)
    value.fill(0)
    const target = Buffer.alloc(100)
    join(stripes.slice(1), target)
    expect(target.equals(before)).toBe(true)
  })

  it.each([
    ['nothing', Buffer.alloc(0)],
    ['a part of a header', split(Buffer.alloc(10))[0]!.subarray(0, 7)],
    ['another version', changed(0, 2)],
    ['a sixth stripe', changed(1, 5)],
    ['reserved bits', changed(2, 1)],
    ['another length', changed(4, 200)],
    ['a byte less', split(Buffer.alloc(10))[0]!.subarray(0, -1)],
  ])('are not %s', (_, bytes) => {
    expect(parseStripe(bytes)).toBeUndefined()
  })
})

function changed(at: number, byte: number): Buffer {
  const stripe = split(Buffer.alloc(10))[0]!
  stripe[at] = byte
  return stripe
}
