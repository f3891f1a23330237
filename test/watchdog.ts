/**
 * For tests of code that could loop for ever without giving the thread back: vitest's own timeout is a timer, and never
 * comes then. A thread of its own ends this process, which runs one file of tests, and says which test it was.
 */
import { Worker } from 'node:worker_threads'
import { afterAll, afterEach, beforeAll, beforeEach } from 'vitest'

const LOOK_MS = 250

const WATCH = `
  const { workerData: { turns, limitMs, name } } = require('node:worker_threads')
  let [seen, since] = [0, Date.now()]
  setInterval(() => {
    const turn = Atomics.load(turns, 0)
    if (turn !== seen) [seen, since] = [turn, Date.now()]
    if (turn % 2 === 0 || Date.now() - since < limitMs) return
    const length = Atomics.load(turns, 1)
    require('node:fs').writeSync(2, 'it loops for ever: ' + Buffer.from(Uint8Array.from(name.subarray(0, length))) + '\\n')
    process.kill(process.pid, 'SIGKILL')
  }, ${LOOK_MS})
`

/** Watches each test of the file. */
export function watchForLoops(limitMs = 30_000): void {
  // The count is odd while a test runs; then how long the test's name is.
  const turns = new Int32Array(new SharedArrayBuffer(8))
  const name = new Uint8Array(new SharedArrayBuffer(256))
  let watcher: Worker | undefined
  beforeAll(() => {
    watcher = new Worker(WATCH, { eval: true, workerData: { turns, limitMs, name } })
    watcher.unref()
  })
  beforeEach(({ task }) => {
    const bytes = Buffer.from(task.name).subarray(0, name.length)
    name.set(bytes)
    Atomics.store(turns, 1, bytes.length)
    Atomics.add(turns, 0, 1)
  })
  afterEach(() => {
    Atomics.add(turns, 0, 1)
  })
  afterAll(async () => {
    await watcher?.terminate()
  })
}
