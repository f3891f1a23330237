/** A disk cache against a Map: it may forget, and it never gives other bytes, nor takes more than its bound. */
import { hash } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { openDiskCache } from '../../src/cache/disk.ts'
import { bytesIn, TurnClock } from './disk-folder.ts'

const SIZE_BYTES = 32 * 4096
const KEYS = 24

/** Bytes of a length of its own for each key; the id is their hash, as it is of sealed chunks. */
const BODIES = Array.from({ length: KEYS }, (_, key) => Buffer.alloc(1 + ((key * 2741) % 16_000), key + 1))
const IDS = BODIES.map(body => hash('sha256', body))

const key = fc.nat(KEYS - 1)
const step = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('put' as const), key }) },
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('get' as const), key }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('putMany' as const), keys: fc.array(key, { minLength: 2, maxLength: 6 }) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('evict' as const), key }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('reopen' as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('turn' as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('clear' as const) }) },
)

it('gives what was put or nothing, within its bound', async () => {
  let hits = 0
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 20, maxLength: 60 }), async steps => {
      const path = await mkdtemp(join(tmpdir(), 'thaw-disk-model-'))
      const clock = new TurnClock()
      const open = () => clock.opened(openDiskCache({ path, sizeBytes: SIZE_BYTES, clock }))
      let cache = await open()
      const mayHave = new Set<number>()
      const get = (at: number) => cache.get(IDS[at]!, sizeBytes => Buffer.alloc(sizeBytes))
      const put = async (at: number): Promise<void> => {
        expect(await cache.put(IDS[at]!, BODIES[at]!)).toBe(true)
        mayHave.add(at)
      }
      const run = {
        put: async ({ key: at }: { key: number }) => {
          await put(at)
          expect(Buffer.compare((await get(at))!, BODIES[at]!)).toBe(0)
        },
        get: async ({ key: at }: { key: number }) => {
          const found = await get(at)
          if (found === undefined) return
          hits++
          expect(mayHave).toContain(at)
          expect(Buffer.compare(found, BODIES[at]!)).toBe(0)
        },
        putMany: async ({ keys }: { keys: readonly number[] }) => void (await Promise.all(keys.map(put))),
        evict: async ({ key: at }: { key: number }) => {
          await cache.evict(IDS[at]!)
          mayHave.delete(at)
        },
        reopen: async () => {
          await cache.close()
          cache = await open()
        },
        turn: () => clock.turn(),
        clear: async () => {
          await cache.clear()
          mayHave.clear()
        },
      }
      try {
        for (const one of steps) {
          await (one.kind === 'putMany' ? run.putMany(one) : 'key' in one ? run[one.kind](one) : run[one.kind]())
          expect(await bytesIn(path)).toBeLessThanOrEqual(SIZE_BYTES)
        }
      } finally {
        await cache.close()
        await rm(path, { recursive: true })
      }
    }),
    { numRuns: 40 },
  )
  expect(hits).toBeGreaterThan(0)
})
