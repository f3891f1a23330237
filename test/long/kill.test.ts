/** A push killed at a hundred moments: what test/fault/kill.test.ts does with fewer. */
import { it } from 'vitest'
import { killPushes } from '../fault/kill-pushes.ts'

it('a push killed at a hundred moments leaves nothing half, and is completed by the next', async () => {
  await killPushes([...Array<number>(40).fill(1), ...Array<number>(6).fill(10)])
})
