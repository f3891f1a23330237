/** Ten thousand restores that are created, attached and closed in a random order, with pagers that die. */
import { expect, it } from 'vitest'
import { soak } from '../lifecycle/soak.ts'

it('ten thousand restores leave nothing, and read their own bytes', async () => {
  const { counts, controlReads } = await soak({ seed: 2, rounds: 10_000 })
  expect(controlReads).toBeGreaterThan(0)
  expect(counts['a client of its own: its bytes']).toBeGreaterThan(0)
})
