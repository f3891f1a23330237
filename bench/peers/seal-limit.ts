/**
 * The sealing limit: how fast two threads of one Node process read an image, look for zeros, compress, hash, encrypt and hash again, and do nothing else. No store,
 * no manifest, no durability: what a push does besides is measured against this.
 *
 * It shares no code with `src`: a slower seal there must not make the limit slower. Timed in this process, with the start of the threads, not of Node.
 */
import { Worker } from 'node:worker_threads'
import { type Run, timed } from '../harness.ts'

const THREADS = 2
const PROGRAM = new URL('seal-limit-worker.js', import.meta.url)

/** Seals a file. Throws if there is nothing to seal in it. */
export async function sealLimit(path: string): Promise<Run> {
  let sealedBytes = 0
  const run = await timed(async () => {
    const shares = await Promise.all(Array.from({ length: THREADS }, (_, thread) => sealShare(path, thread)))
    sealedBytes = shares.reduce((sum, bytes) => sum + bytes, 0)
  })
  if (sealedBytes === 0) throw new Error(`${path} is all zero: there is no limit to be measured`)
  return run
}

/** Settles with the thread's answer as soon as that is there; the thread ends by itself. */
function sealShare(path: string, thread: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(PROGRAM, { workerData: { path, first: thread, step: THREADS } })
    worker.once('message', resolve)
    worker.once('error', reject)
  })
}
