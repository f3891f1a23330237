/** One clock: the same seed gives the same sequence of accesses to every tier, with the same times, twice, thousands of readers in one process; another seed gives another. */
import { afterAll, beforeAll, expect, it } from 'vitest'
import { LocalEngine } from '../../src/engine/local.ts'
import type { ReadFigures } from '../../src/stats.ts'
import type { CallOptions } from '../../src/store.ts'
import { VirtualClock } from '../../src/testing.ts'
import { Urgency } from '../../src/util/urgency.ts'
import { FakeCache } from '../fault/fake-cache.ts'
import { openThrough, type PushedImage, pushedImage } from '../fault/read-path.ts'
import { patchedStore } from '../patched-store.ts'

const RANGES = 60
const READERS = 2000
const READS_EACH = 2
const PAGE_BYTES = 4096

let pushed: PushedImage

beforeAll(async () => {
  pushed = await pushedImage(RANGES)
})
afterAll(() => pushed[Symbol.asyncDispose]())

interface Run {
  /** `<ms> <tier> <call> <what>`, of every call to every tier. */
  readonly trace: readonly string[]
  readonly figures: ReadFigures
  readonly wrong: number
}

async function run(seed: number): Promise<Run> {
  const clock = new VirtualClock(seed)
  const trace: string[] = []
  const cache = (tier: 'disk' | 'l2', delayMs: number): FakeCache => {
    const made = new FakeCache(tier, {
      clock,
      delayMs,
      onCall: ({ method, id }) => void trace.push(`${clock.now()} ${tier} ${method} ${id}`),
    })
    // Forgets a good part, and has the odd bad copy.
    made.plan = ({ method }) => (method === 'get' && clock.random() < 0.5 ? (clock.random() < 0.1 ? 'flip' : 'miss') : undefined)
    return made
  }
  const objects = patchedStore(pushed.objects, {
    getInto: async (key: string, target: Uint8Array, { signal }: CallOptions = {}) => {
      trace.push(`${clock.now()} origin get ${key}`)
      // One in twenty is late.
      await clock.sleep(5 + clock.random() * (clock.random() < 0.05 ? 300 : 10), signal)
      return await pushed.objects.getInto(key, target)
    },
  })
  const engine = new LocalEngine({ memoryBytes: 0, caches: [cache('disk', 0.3), cache('l2', 1)], clock })
  const store = await clock.run(openThrough(objects, pushed.keyring, engine))
  const snapshot = await clock.run(store.open(pushed.id))
  const image = snapshot.image('memory')
  let wrong = 0
  const read = async (): Promise<void> => {
    for (let count = 0; count < READS_EACH; count++) {
      await clock.sleep(clock.random() * 3_000)
      const offset = Math.floor(clock.random() * RANGES * 128) * PAGE_BYTES
      const urgency = new Urgency(clock.random() < 0.5 ? 'prefetch' : 'demand')
      const aborter = new AbortController()
      const kind = clock.random()
      if (kind < 0.1) clock.after(clock.random() * 10, () => aborter.abort(new EvalError('gone')))
      else if (kind < 0.3) clock.after(clock.random() * 10, () => urgency.raise())
      try {
        const bytes = await image.read(offset, PAGE_BYTES, { urgency, signal: aborter.signal })
        if (!pushed.image.subarray(offset, offset + PAGE_BYTES).equals(bytes)) wrong++
      } catch (error) {
        if (!(error instanceof EvalError)) throw error
      }
    }
  }
  await clock.run(Promise.all(Array.from({ length: READERS }, read)))
  await clock.run(engine.settled())
  const figures = await engine.figures()
  await clock.run(engine.close())
  return { trace, figures, wrong }
}

it('the same seed gives the same accesses, another seed others', async () => {
  const [first, again, other] = [await run(7), await run(7), await run(8)]
  expect(again.trace.find((call, index) => call !== first.trace[index])).toBe(undefined)
  expect(again.trace.length).toBe(first.trace.length)
  expect(again.figures).toEqual(first.figures)
  expect(other.trace.some((call, index) => call !== first.trace[index])).toBe(true)
  // All that could make a difference took part.
  const { memory, disk, l2, origin } = first.figures
  expect(first.wrong + other.wrong).toBe(0)
  for (const count of [
    memory.hits,
    memory.evictions,
    disk!.hits,
    disk!.corrupt,
    disk!.healed,
    l2!.hits,
    origin.hits,
    origin.hedges,
    origin.hedgesWon,
  ]) {
    expect(count).toBeGreaterThan(0)
  }
})
