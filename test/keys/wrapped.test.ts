/** Wrapped data keys: bound to their snapshot and key, and refused with any byte changed. */
import { createCipheriv, randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { isThawError } from '../../src/errors.ts'
import { decodeWrappedKeys, encodeWrappedKeys, unwrapDataKey, wrapDataKey } from '../../src/keys/wrapped.ts'

const key = { id: '00112233445566aa', key: randomBytes(32) }
const dataKey = Uint8Array.from(randomBytes(32))
const snapshot = randomBytes(32)

describe('wrapping', () => {
  it('gives the data key back, and differs each time', () => {
    const wrapped = wrapDataKey(dataKey, snapshot, key)
    expect(unwrapDataKey(wrapped, snapshot, key)).toEqual(dataKey)
    expect(wrapDataKey(dataKey, snapshot, key).wrapped).not.toEqual(wrapped.wrapped)
  })

  it('is what docs/FORMAT.md section 7 says', () => {
    const { wrapped } = wrapDataKey(dataKey, snapshot, key)
    const cipher = createCipheriv('aes-256-gcm', key.key, wrapped.subarray(0, 12))
    cipher.setAAD(Buffer.concat([Buffer.from('thaw-wrap-1'), snapshot, Buffer.from('00112233445566aa', 'latin1')]))
    expect(Buffer.concat([wrapped.subarray(0, 12), cipher.update(dataKey), cipher.final(), cipher.getAuthTag()])).toEqual(
      Buffer.from(wrapped),
    )
  })

  it('does not open for another snapshot, key, key id, length, or with a byte changed', () => {
    const wrapped = wrapDataKey(dataKey, snapshot, key)
    expect(unwrapDataKey(wrapped, randomBytes(32), key)).toBeUndefined()
    expect(unwrapDataKey(wrapped, snapshot, { ...key, key: randomBytes(32) })).toBeUndefined()
    expect(unwrapDataKey(wrapped, snapshot, { ...key, id: '00112233445566ab' })).toBeUndefined()
    for (const length of [0, 12, 28, 59]) {
      expect(unwrapDataKey({ ...wrapped, wrapped: wrapped.wrapped.subarray(0, length) }, snapshot, key)).toBeUndefined()
    }
    for (const at of wrapped.wrapped.keys()) {
      const changed = Uint8Array.from(wrapped.wrapped)
      changed[at]! ^= 0x10
      expect(unwrapDataKey({ ...wrapped, wrapped: changed }, snapshot, key)).toBeUndefined()
    }
  })

  it('takes 32 bytes and nothing else', () => {
    expect(() => wrapDataKey(new Uint8Array(16), snapshot, key)).toThrow(RangeError)
  })
})

describe('the document keys/<id>', () => {
  const keys = [wrapDataKey(dataKey, snapshot, key), wrapDataKey(dataKey, snapshot, { id: 'ffeeddccbbaa0099', key: randomBytes(32) })]
  const bytes = encodeWrappedKeys(snapshot, keys)

  it('is read back', () => {
    expect(decodeWrappedKeys(bytes, snapshot, 'keys/x')).toEqual(keys)
  })

  it("is CORRUPT in another snapshot's place", () => {
    expect(() => decodeWrappedKeys(bytes, randomBytes(32), 'keys/x')).toThrow(expect.objectContaining({ code: 'CORRUPT' }))
  })

  it('needs a key, each once, and takes no more than fit', () => {
    const many = (count: number) => Array.from({ length: count }, (_, n) => ({ ...keys[0]!, keyId: n.toString(16).padStart(16, '0') }))
    expect(() => encodeWrappedKeys(snapshot, [keys[0]!, keys[0]!])).toThrow(RangeError)
    expect(() => encodeWrappedKeys(snapshot, [])).toThrow(RangeError)
    expect(() => encodeWrappedKeys(snapshot, many(500))).toThrow(RangeError)
    expect(decodeWrappedKeys(encodeWrappedKeys(snapshot, many(400)), snapshot, 'keys/x')).toHaveLength(400)
  })

  it('is refused with any byte changed', () => {
    fc.assert(
      fc.property(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
        const damaged = Uint8Array.from(bytes)
        damaged[at]! ^= flip
        try {
          decodeWrappedKeys(damaged, snapshot, 'keys/x')
        } catch (error) {
          return isThawError(error, 'CORRUPT', 'BAD_FORMAT')
        }
        return false
      }),
      { numRuns: 500 },
    )
  })
})
