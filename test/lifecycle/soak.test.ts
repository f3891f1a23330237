/** A hundred and fifty rounds of what `npm run test:long` does ten thousand of. */
import { expect, it } from 'vitest'
import { soak } from './soak.ts'

it('restores that come and go leave nothing, and read their own bytes', async () => {
  const { counts, controlReads } = await soak({ seed: 1, rounds: 150 })
  expect(controlReads).toBeGreaterThan(0)
  expect(Object.keys(counts)).toEqual(
    expect.arrayContaining(['nbd served', 'uffd served', 'fuse served', 'a client of its own: its bytes']),
  )
})
