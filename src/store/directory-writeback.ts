/**
 * Makes written files durable in the background, so that a `sync()` finds most of the work done: a file is handed over when its bytes are written, and
 * closed here once they are on the disk.
 *
 * In the background it keeps to half of libuv's four threads, which also write, read and compress; in a hurry it takes all. Its backlog is bounded:
 * `room()` waits when the disk falls behind.
 */
import fs from 'node:fs'
import { fdatasync } from './directory-files.ts'

const BACKGROUND_PARALLEL_MAX = 2
const HURRY_PARALLEL_MAX = 16
/** Open files waiting for the disk. */
const BACKLOG_MAX = 256

interface Job {
  readonly fd: number
  readonly settle: (failure: unknown) => void
}

export class Writeback {
  readonly #queue: Job[] = []
  #running = 0
  #parallel = BACKGROUND_PARALLEL_MAX
  #waiting: PromiseWithResolvers<void> | undefined

  /** Takes over an open file. Resolves, never rejects, when it is closed: to undefined if its bytes are durable, else to what went wrong. */
  add(fd: number): Promise<unknown> {
    return new Promise(settle => {
      this.#queue.push({ fd, settle })
      this.#pump()
    })
  }

  /** Resolves when the backlog has room for one more file. */
  async room(): Promise<void> {
    while (this.#queue.length >= BACKLOG_MAX) {
      this.#waiting ??= Promise.withResolvers()
      await this.#waiting.promise
    }
  }

  /** Someone waits for what is queued now: at full speed until nothing is. */
  hurry(): void {
    this.#parallel = HURRY_PARALLEL_MAX
    this.#pump()
  }

  #pump(): void {
    while (this.#running < this.#parallel) {
      const job = this.#queue.shift()
      if (job === undefined) {
        this.#parallel = BACKGROUND_PARALLEL_MAX
        break
      }
      this.#running++
      void this.#sync(job)
    }
    if (this.#queue.length < BACKLOG_MAX) {
      this.#waiting?.resolve()
      this.#waiting = undefined
    }
  }

  async #sync({ fd, settle }: Job): Promise<void> {
    const failure = await fdatasync(fd).then(
      () => undefined,
      (error: unknown) => error,
    )
    fs.closeSync(fd)
    this.#running--
    settle(failure)
    this.#pump()
  }
}
