/**
 * The pagers of an engine: threads that are started when the first restore is, and restores spread over them. In place of one that has died another is started when the next
 * restore comes; what the dead one served has ended with it.
 */
import { availableParallelism } from 'node:os'
import type { Engine } from '../engine.ts'
import { ThawError } from '../errors.ts'
import type { PagedImage } from '../pager.ts'
import { loadNative } from '../util/native.ts'
import { type PagedRestore, PagerHandle } from './handle.ts'

export interface PagerOptions {
  /** Threads; default: one less than there are processors, at least 1 and at most 4. */
  readonly threads?: number | undefined
  /** How long a pager asks again after something happened, before it sleeps; default 50, 0: never. */
  readonly spinMicroseconds?: number | undefined
}

const THREADS_MAX = 4

export class Pagers {
  readonly #engine: Engine
  readonly #threadsMax: number
  readonly #spinMicroseconds: number | undefined
  readonly #threads = new Set<Promise<PagerHandle>>()
  #isClosed = false

  constructor(engine: Engine, { threads, spinMicroseconds }: PagerOptions = {}) {
    this.#engine = engine
    this.#threadsMax = threads ?? Math.max(1, Math.min(THREADS_MAX, availableParallelism() - 1))
    this.#spinMicroseconds = spinMicroseconds
  }

  /** Starts the threads for whoever comes. */
  warm(): void {
    // Who asks for one is told why there is none.
    this.#alive().catch(() => undefined)
  }

  /**
   * Opens a restore on the pager that has the fewest. `images` is asked when that is known.
   * @throws UNSUPPORTED without koffi; UNAVAILABLE if no thread can be started; CLOSED
   */
  async open(deadlineMs: number, images: () => readonly PagedImage[]): Promise<PagedRestore> {
    const pager = (await this.#alive()).reduce((least, handle) => (handle.restores < least.restores ? handle : least))
    pager.restores++
    try {
      return await pager.openRestore(deadlineMs, images())
    } catch (error) {
      pager.restores--
      throw error
    }
  }

  /** At least one, in place of the dead too. */
  async #alive(): Promise<readonly PagerHandle[]> {
    await loadNative('serving guests')
    for (;;) {
      if (this.#isClosed) throw new ThawError('CLOSED', 'the cache is closed')
      while (this.#threads.size < this.#threadsMax) this.#start()
      const threads = await Promise.allSettled(this.#threads)
      const handles = threads.flatMap(thread => (thread.status === 'fulfilled' ? thread.value : []))
      const alive = handles.filter(({ isAlive }) => isAlive)
      if (alive.length > 0) return alive
      if (handles.length === 0) throw (threads[0] as PromiseRejectedResult).reason
      await Promise.all(handles.map(({ exited }) => exited))
    }
  }

  /** One that could not be started (no descriptor was free), or has died, leaves its place to the next. */
  #start(): void {
    const thread = PagerHandle.start(this.#engine, this.#spinMicroseconds)
    this.#threads.add(thread)
    const leave = (): void => void this.#threads.delete(thread)
    thread.then(({ exited }) => exited).then(leave, leave)
  }

  /** Stops the threads. Restores are closed before. Idempotent. */
  async close(): Promise<void> {
    this.#isClosed = true
    const threads = await Promise.allSettled(this.#threads)
    await Promise.all(threads.map(thread => (thread.status === 'fulfilled' ? thread.value.close() : undefined)))
  }
}
