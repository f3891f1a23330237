/**
 * The worker threads of pools. A thread takes 30 to 60 ms from its start to its first task, as long as the rest of the library takes to load: a command that knows
 * it will need them calls `warmUp` first and loads the rest meanwhile; and a pool that ends leaves its threads to the next one. Idle ones do not keep the process
 * alive; they hold 10 MB each and no secret.
 */
import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'
import { THREAD_LIMITS } from '../util/thread-limits.ts'
import type { WorkerOptions } from './tasks.ts'

/** Beyond this the disk or the network is the limit, and each thread costs 10 MB. */
const THREADS_MAX = 8
/** Payload buffers and zstd's window lie outside. With 32 MiB the collector ran thirteen times in a push of 150 MiB, while native results still piled up (util/discard.ts). */
const LIMITS = { ...THREAD_LIMITS, maxOldGenerationSizeMb: 64, maxYoungGenerationSizeMb: 2 }

/** Options that make a thread forget those it had. */
const NOTHING: WorkerOptions = {
  slab: { memory: new SharedArrayBuffer(0), slotBytes: 0 },
  sealedSlab: undefined,
  nice: false,
  sealing: undefined,
}

const idle: Worker[] = []

/** Threads of one pool: one a core. */
export function threadCount(): number {
  return Math.min(availableParallelism(), THREADS_MAX)
}

let nice = false

/** From now on threads of new pools give way to all others: this process serves guests, and what it does in bulk must not hold up their faults. */
export function giveWay(): void {
  nice = true
}

export function wantsNice(): boolean {
  return nice
}

/** Starts the threads of one pool in advance. */
export function warmUp(): void {
  while (idle.length < threadCount()) idle.push(start())
}

/** A thread that waits for its options as its next message; the caller gives it back or ends it. */
export function takeThread(): Worker {
  return idle.pop() ?? start()
}

/** Takes a thread that has nothing to do, for the next pool; ends it if there are enough. */
export async function giveBack(worker: Worker): Promise<void> {
  if (idle.length >= threadCount()) {
    await worker.terminate()
    return
  }
  worker.postMessage(NOTHING)
  worker.unref()
  idle.push(worker)
}

function start(): Worker {
  const file = new URL(import.meta.url.endsWith('.ts') ? './worker.ts' : './worker.js', import.meta.url)
  const worker = new Worker(file, { resourceLimits: LIMITS })
  // One that dies while nobody uses it is nobody's error.
  worker.on('error', () => {
    const at = idle.indexOf(worker)
    if (at >= 0) idle.splice(at, 1)
  })
  worker.unref()
  return worker
}
