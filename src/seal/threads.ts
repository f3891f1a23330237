/**
 * Starts the worker threads of pools. A thread takes 30 to 60 ms from its start to its first task, as long as the rest of the library takes to load: a command that knows
 * it will need them calls `warmUp` first and loads the rest meanwhile.
 */
import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'

/** Beyond this the disk or the network is the limit, and each thread costs 10 MB. */
const THREADS_MAX = 8
/** Two payload buffers and zstd's window lie outside; with less the collector runs four times as often (measured: 13 full collections in a push of 150 MiB, with this 3). */
const HEAP = { maxOldGenerationSizeMb: 64, maxYoungGenerationSizeMb: 2 } as const

const started: Worker[] = []

/** Threads of one pool: one a core. */
export function threadCount(): number {
  return Math.min(availableParallelism(), THREADS_MAX)
}

/** Starts the threads of one pool in advance. They do not keep the process alive. */
export function warmUp(): void {
  while (started.length < threadCount()) started.push(start())
}

/** A thread that waits for its options as its first message; the caller ends it. */
export function takeThread(): Worker {
  return started.pop() ?? start()
}

function start(): Worker {
  const file = new URL(import.meta.url.endsWith('.ts') ? './worker.ts' : './worker.js', import.meta.url)
  const worker = new Worker(file, { resourceLimits: HEAP })
  worker.unref()
  return worker
}
