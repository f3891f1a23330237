/** A push killed at a hundred moments: what test/fault/kill.test.ts does with fewer. */
import { expect, it } from 'vitest'
import { killPushes, STEPS } from '../fault/kill-pushes.ts'

it('a push killed at a hundred moments leaves nothing half, and is completed by the next', async () => {
  const killedIn = await killPushes([...Array<number>(40).fill(1), ...Array<number>(6).fill(10)])
  // Had the pushes been over when the signals came, nothing would have been tested.
  for (const { word } of STEPS) expect(killedIn.get(word) ?? 0, `killed in step ${word}`).toBeGreaterThan(0)
})
