/**
 * Four threads read through an arena of 16 slots what needs hundreds, without a lock: nobody ever sees another chunk's bytes. Without the second look of `Arena.pin`, or
 * with an engine that reuses slots that are pinned, it fails.
 */
import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { expect, it } from 'vitest'
import { RemoteEngine, startThread } from '../../src/engine/remote.ts'
import { markedStore, ROOT, wholeImage } from './marked-store.ts'
import type { StressOptions, StressResult } from './stress-thread.ts'

const CHUNKS = 300
const PAGES = 4
const READERS = 4
const WANTS = 800

it('shows no reader bytes of another chunk while slots are evicted and reused', async () => {
  await using marked = await markedStore(CHUNKS, PAGES)
  await using engine = await RemoteEngine.over(startThread({ memoryBytes: 0 }))
  const held = await (await engine.openStore(marked.objects)).hold(marked.columns, ROOT)
  const image = wholeImage(marked.columns, held.numbers)
  const read = async (seed: number): Promise<StressResult> => {
    await using line = await engine.openLine('message')
    const { end } = line
    const workerData: StressOptions = { arena: engine.arena.memory, end, handle: held.handle, image, pages: PAGES, wants: WANTS, seed }
    const reader = new Worker(new URL('./stress-thread.ts', import.meta.url), { workerData, transferList: [end.port] })
    const [result] = (await once(reader, 'message')) as [StressResult]
    await reader.terminate()
    return result
  }
  const results = await Promise.all(Array.from({ length: READERS }, (_, reader) => read(1 + 7919 * reader)))
  expect(results.map(({ good, wrong }) => ({ good, wrong }))).toEqual(results.map(() => ({ good: WANTS, wrong: 0 })))
  const { memory } = await engine.figures()
  const sum = (key: 'hits' | 'hitBytes'): number => results.reduce((total, result) => total + result[key], 0)
  expect(memory).toMatchObject({ hits: sum('hits'), bytes: sum('hitBytes'), chunks: memory.chunksMax, chunksMax: 16 })
  expect(memory.hits).toBeGreaterThan(0)
  expect(memory.evictions).toBeGreaterThan(WANTS)
  expect([...new Int32Array(engine.arena.memory.pins)]).toEqual(Array.from({ length: 16 }, () => 0))
})
