/** A reading thread for the test of a busy main thread: reads a whole image through a line, says so in shared memory, and only then lets main go on. */
import { parentPort, workerData } from 'node:worker_threads'
import { ABSENT, Arena, type ArenaMemory } from '../../src/arena.ts'
import type { LineEnd } from '../../src/engine/line.ts'
import { LinePromises } from '../../src/engine/line-promises.ts'
import type { SharedImage } from '../../src/reader.ts'
import { ImageReader } from '../../src/reader.ts'

export interface BusyMainOptions {
  readonly arena: ArenaMemory
  readonly end: LineEnd
  readonly image: SharedImage
  /** Set to 1, and notified, when the whole image was read. */
  readonly done: Int32Array
  /** Where the image is written. */
  readonly target: SharedArrayBuffer
}

const { arena: memory, end, image, done, target } = workerData as BusyMainOptions
const arena = new Arena(memory)
const reader = new ImageReader(image, arena)
const line = new LinePromises(end, arena)
const bytes = Buffer.from(target)

parentPort!.on('message', async () => {
  let misses = 0
  for (let at = 0; at < image.sizeBytes; ) {
    const piece = bytes.subarray(at, at + 4096)
    const read = reader.tryReadInto(piece, at)
    at += read
    if (read > 0) continue
    misses++
    const { slot } = await line.want(image.handle, reader.locate(Math.floor(at / 4096)).chunk)
    if (slot === ABSENT) throw new Error('no slot')
    arena.unpin(slot)
  }
  Atomics.store(done, 0, misses)
  Atomics.notify(done, 0)
})
parentPort!.postMessage('up')
