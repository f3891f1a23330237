import { hash, randomBytes } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { copyOfLong, SLICE_BYTES, sha256OfLong } from '../../src/util/long-bytes.ts'
import { longestStep } from '../longest-step.ts'

describe.each([0, 1, SLICE_BYTES, SLICE_BYTES + 1, 3 * SLICE_BYTES])('%d bytes', sizeBytes => {
  const bytes = randomBytes(sizeBytes)

  it('are hashed whole', async () => {
    expect(await sha256OfLong(bytes)).toBe(hash('sha256', bytes))
  })

  it('are copied whole', async () => {
    const copy = await copyOfLong(bytes)
    expect(bytes.equals(copy)).toBe(true)
    expect(copy.buffer).not.toBe(bytes.buffer)
  })
})

it('hold up nobody, however many they are', async () => {
  const bytes = randomBytes(2 ** 26)
  expect(await longestStep(() => Promise.all([sha256OfLong(bytes), copyOfLong(bytes)]))).toBeLessThan(10)
})
