import { expect, it } from 'vitest'
import { LoopDelay } from '../../src/util/loop-delay.ts'

it('shows a step that held up the event loop, and goes on until it is closed', async () => {
  const delay = new LoopDelay()
  expect(delay.read().count).toBe(0)
  const until = performance.now() + 100
  while (performance.now() < until);
  await expect.poll(() => delay.read().count).toBeGreaterThan(1)
  // It was due 20 ms after it was first read.
  expect(delay.read().maxMs).toBeGreaterThan(70)
  delay.close()
  const { count } = delay.read()
  await new Promise(resolve => setTimeout(resolve, 50))
  expect(delay.read().count).toBe(count)
})
