/** A thread that reads as a pager does: hits from the arena, misses over a line with an eventfd. Started from here, it runs `reader-thread.ts`. */
import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import type { ArenaMemory } from '../../src/arena.ts'
import type { LineEnd } from '../../src/engine/line.ts'
import type { Cache } from '../../src/index.ts'
import type { SharedImage } from '../../src/reader.ts'

/** What the thread is to measure. */
export type Task =
  /** 4 KiB reads that are all in memory, for so long. */
  | { readonly kind: 'hits'; readonly ms: number }
  /** A page of each chunk once, none of which is in memory; `from`: the first of them is the chunk with that number in the image. */
  | { readonly kind: 'misses'; readonly from?: number }

export interface ReaderInput {
  readonly arena: ArenaMemory
  readonly image: SharedImage
  readonly line: LineEnd
  readonly task: Task
}

/** Milliseconds of each read. */
export async function startReader(cache: Cache, image: SharedImage, task: Task): Promise<Float64Array> {
  await using line = await cache.engine.openLine('eventfd')
  const input: ReaderInput = { arena: cache.engine.arena.memory, image, line: line.end, task }
  const worker = new Worker(new URL('./reader-thread.ts', import.meta.url), { workerData: input, transferList: [line.end.port] })
  const [ms] = (await once(worker, 'message')) as [Float64Array]
  await worker.terminate()
  return ms
}
