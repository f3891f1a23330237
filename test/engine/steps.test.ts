/**
 * Nothing long on the engine's thread: what opening, sharing and closing large snapshots takes of it at
 * a time. The aim is 2 ms (bench/read.ts, section open, has the figures); the bound here is one that
 * the collector and code that is not compiled yet keep, and that work in one go does not.
 */
import { randomFillSync } from 'node:crypto'
import { afterAll, beforeAll, expect, it } from 'vitest'
import type { ChunkColumns } from '../../src/engine/chunk-table.ts'
import { LocalEngine } from '../../src/engine/local.ts'
import type { EngineStore, HeldSnapshot } from '../../src/engine.ts'
import { memoryStore } from '../../src/testing.ts'
import { longestStep } from '../longest-step.ts'
import { ROOT } from './marked-store.ts'

const STEP_MS_MAX = 10
/** 30 GiB. */
const CHUNKS = 61_440
const RESTORES = 200

let engine: LocalEngine
let store: EngineStore

beforeAll(async () => {
  engine = new LocalEngine({ memoryBytes: 0, caches: [] })
  store = await engine.openStore(memoryStore())
})
afterAll(() => engine.close())

function randomColumns(chunks: number): ChunkColumns {
  const random = (): Uint8Array => randomFillSync(new Uint8Array(32 * chunks))
  const segments = [{ origin: undefined, layer: 'os', domain: '0a1b2c3d4e5f6071', count: chunks } as const]
  return { segments, ids: random(), keys: random(), sealedBytes: new Uint32Array(chunks), pages: new Uint8Array(chunks).fill(128) }
}

it('opens a snapshot of 30 GiB, and lends it to 200 restores', async () => {
  const columns = randomColumns(CHUNKS)
  let held: HeldSnapshot | undefined
  expect(await longestStep(async () => (held = await store.hold(columns, ROOT)))).toBeLessThan(STEP_MS_MAX)
  const lent: HeldSnapshot[] = []
  const lending = async (): Promise<void> => {
    for (let restore = 0; restore < RESTORES; restore++) lent.push(await held!.lend({ tenant: '', restore: `r${restore}` }))
  }
  expect(await longestStep(lending)).toBeLessThan(STEP_MS_MAX)
  expect(lent.every(({ numbers }) => numbers === held!.numbers)).toBe(true)
  const other = randomColumns(CHUNKS)
  const releasing = async (): Promise<void> => {
    for (const one of [held!, ...lent]) one.release()
    await store.hold(other, ROOT)
  }
  expect(await longestStep(releasing)).toBeLessThan(STEP_MS_MAX)
})

it('opens and closes many at a time, half a million chunks in all', async () => {
  const tables = Array.from({ length: 4 }, () => randomColumns(CHUNKS))
  let held: HeldSnapshot[] = []
  const holding = async (): Promise<void> => {
    held = await Promise.all(tables.map(columns => store.hold(columns, ROOT)))
  }
  expect(await longestStep(holding)).toBeLessThan(STEP_MS_MAX)
  const others = [randomColumns(4 * CHUNKS)]
  const again = async (): Promise<void> => {
    for (const one of held) one.release()
    await Promise.all(others.map(columns => store.hold(columns, ROOT)))
  }
  expect(await longestStep(again)).toBeLessThan(STEP_MS_MAX)
})
