import { randomBytes } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { copyWhole } from '../../src/util/copy.ts'

describe('copyWhole', () => {
  it.each([0, 1, 2, 7, 4096, 70_001])('copies %i bytes, and no other, to shared memory and from it', length => {
    const bytes = randomBytes(length)
    const shared = Buffer.from(new SharedArrayBuffer(length + 20)).fill(7)
    copyWhole(bytes, shared, 5)
    expect(shared.subarray(5, 5 + length).equals(bytes)).toBe(true)
    expect(Buffer.concat([shared.subarray(0, 5), shared.subarray(5 + length)]).equals(Buffer.alloc(20, 7))).toBe(true)
    const back = new Uint8Array(length + 1)
    copyWhole(shared.subarray(5, 5 + length), back, 1)
    expect(Buffer.from(back.subarray(1)).equals(bytes)).toBe(true)
  })
})
