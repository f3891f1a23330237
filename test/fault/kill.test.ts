/** A push killed at some twenty moments; test/long kills a hundred. */
import { expect, it } from 'vitest'
import { killPushes } from './kill-pushes.ts'

it('a push killed in the middle leaves nothing half, and is completed by the next', { timeout: 300_000 }, async () => {
  // In stores of their own, which the next push completes; and in one, each push meeting what those before have left.
  const killedIn = await killPushes([...Array<number>(14).fill(1), 10])
  expect(killedIn.size).toBeGreaterThan(0)
})
