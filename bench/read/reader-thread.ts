/** The thread of `reader.ts`. It has no event loop to speak of: it sleeps in `poll` on the eventfd of its line. */
import { parentPort, workerData } from 'node:worker_threads'
import { Arena } from '../../src/arena.ts'
import { LineClient } from '../../src/engine/line-client.ts'
import { ZERO } from '../../src/pagemap.ts'
import { ImageReader } from '../../src/reader.ts'
import { silenceEventFd } from '../../src/util/eventfd.ts'
import type { ReaderInput } from './reader.ts'

/** Between two hits. */
const PAUSE_MS = 0.1
const POLLIN = 1
const WAIT_MS = 10_000

const { arena: memory, image, line: end, task } = workerData as ReaderInput
const arena = new Arena(memory)
const reader = new ImageReader(image, arena)
const line = new LineClient(end)
const page = Buffer.alloc(4096)
const waitForBell = await bellWaiter(end.bellFd!)

parentPort!.postMessage(task.kind === 'hits' ? hits(task.ms) : misses(task.from))

function hits(forMs: number): Float64Array {
  const ms: number[] = []
  const pages = image.sizeBytes / 4096
  const pause = new Int32Array(new SharedArrayBuffer(4))
  for (let until = performance.now() + forMs, read = 0; performance.now() < until; read++) {
    const started = performance.now()
    if (reader.tryReadInto(page, ((read * 7919) % pages) * 4096) !== 4096) throw new Error('not in memory')
    ms.push(performance.now() - started)
    Atomics.wait(pause, 0, 0, PAUSE_MS)
  }
  return Float64Array.from(ms)
}

function misses(from = 0): Float64Array {
  return Float64Array.from(firstPages().slice(from), at => {
    const started = performance.now()
    const { chunk } = reader.locate(at)
    if (line.want(image.handle, chunk, 'demand') < 0) throw new Error('the line is full')
    arena.unpin(slotWanted())
    if (reader.tryReadInto(page, at * 4096) !== 4096) throw new Error('wanted, and not there')
    return performance.now() - started
  })
}

/** A page of each chunk, in the order of the image. */
function firstPages(): number[] {
  const pages = new Map<number, number>()
  image.chunks.forEach((chunk, run) => {
    if (chunk !== ZERO && !pages.has(chunk)) pages.set(chunk, image.starts[run]!)
  })
  return [...pages.values()]
}

function slotWanted(): number {
  for (;;) {
    const done = line.next()
    if (done !== undefined) {
      if (done.code !== undefined) throw new Error(`a miss failed: ${done.code}`)
      return done.slot
    }
    if (!line.sleep()) continue
    waitForBell()
    line.wake()
  }
}

/** Sleeps until the bell rings. `struct pollfd` of <poll.h>: fd i32, events i16, revents i16. */
async function bellWaiter(fd: number): Promise<() => void> {
  const { default: koffi } = await import('koffi')
  const poll = koffi.load('libc.so.6').func('int poll(void *fds, unsigned long count, int timeoutMs)')
  const fds = Buffer.alloc(8)
  fds.writeInt32LE(fd, 0)
  fds.writeInt16LE(POLLIN, 4)
  return () => {
    if (poll(fds, 1, WAIT_MS) <= 0) throw new Error('the engine does not answer')
    silenceEventFd(fd)
  }
}
