/**
 * The pagers of an engine, as main sees them: threads that are started when the first restore is, and restores spread over them.
 *
 * A pager that dies takes nothing silently along: every front end is told, and closes the descriptors that it served, so that whoever waits at them gets an error.
 */
import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'
import type { Engine, Line } from '../engine.ts'
import { ThawError } from '../errors.ts'
import type { FrontEndEvent, FrontEndSpec, PagedImage } from '../pager.ts'
import { closeEventFd, openEventFd, ringEventFd } from '../util/eventfd.ts'
import { errorOf } from '../util/failure.ts'
import { loadNative } from '../util/native.ts'
import type { FromPager, PagerInput, ToPager } from './messages.ts'

export interface PagerOptions {
  /** Threads; default: one less than there are processors, at least 1 and at most 4. */
  readonly threads?: number | undefined
  /** How long a pager asks again after something happened, before it sleeps; default 50, 0: never. */
  readonly spinMicroseconds?: number | undefined
}

/** What a front end's main half gives to `attach`. */
export interface FrontEndHooks {
  onEvent(event: FrontEndEvent): void
  /** Its pager died: whoever waits at its descriptors must not wait for ever. */
  onPagerDied(error: Error): void
}

const THREADS_MAX = 4
const PAGER_THREAD = "a pager's thread"

export class Pagers {
  readonly #engine: Engine
  readonly #options: PagerOptions
  readonly #threads = new Set<Promise<PagerHandle>>()
  #isClosed = false

  constructor(engine: Engine, options: PagerOptions = {}) {
    this.#engine = engine
    this.#options = options
  }

  /** Starts the threads for whoever comes. */
  warm(): void {
    // Who asks for one is told why there is none.
    this.pick().catch(() => undefined)
  }

  /** The pager with the fewest restores. @throws UNSUPPORTED without koffi */
  async pick(): Promise<PagerHandle> {
    if (this.#isClosed) throw new ThawError('CLOSED', 'the cache is closed')
    await loadNative('serving guests')
    const { threads = Math.max(1, Math.min(THREADS_MAX, availableParallelism() - 1)), spinMicroseconds } = this.#options
    while (this.#threads.size < threads) this.#start(spinMicroseconds)
    const handles = await Promise.all(this.#threads)
    const [alive, ...others] = handles.filter(handle => handle.isAlive)
    if (alive === undefined) throw new ThawError('CLOSED', 'no pager is left: they failed')
    return others.reduce((least, handle) => (handle.restores < least.restores ? handle : least), alive)
  }

  /** One that could not be started (no descriptor was free) is tried again by the next who asks. */
  #start(spinMicroseconds: number | undefined): void {
    const thread = PagerHandle.start(this.#engine, spinMicroseconds)
    this.#threads.add(thread)
    thread.catch(() => this.#threads.delete(thread))
  }

  /** Stops the threads. Restores are closed before. Idempotent. */
  async close(): Promise<void> {
    this.#isClosed = true
    for (const handle of await Promise.allSettled(this.#threads)) if (handle.status === 'fulfilled') await handle.value.close()
  }
}

/** One pager's thread. */
export class PagerHandle {
  readonly #worker: Worker
  readonly #line: Line
  readonly #bellFd: number
  readonly #calls = new Map<number, PromiseWithResolvers<void>>()
  readonly #frontEnds = new Map<number, FrontEndHooks>()
  readonly #exited = Promise.withResolvers<void>()
  #lastNumber = 0
  #error: Error | undefined
  #closed: Promise<void> | undefined
  restores = 0

  constructor(worker: Worker, line: Line, bellFd: number) {
    this.#worker = worker
    this.#line = line
    this.#bellFd = bellFd
    worker.on('message', (message: FromPager) => this.#hear(message))
    worker.on('error', error => {
      this.#error = error
    })
    worker.once('exit', () => this.#onExit())
    this.#keepAlive()
    stopAtExit(this)
  }

  static async start(engine: Engine, spinMicroseconds: number | undefined): Promise<PagerHandle> {
    const line = await engine.openLine('eventfd')
    const bellFd = await openEventFd().catch(async error => {
      await line.close()
      throw error
    })
    const input: PagerInput = { arena: engine.arena.memory, line: line.end, bellFd, spinMicroseconds }
    // Bundled, the threads lie beside each other, and this file in one of the chunks beside them.
    const file = import.meta.url.endsWith('.ts') ? '../frontend/worker.ts' : './pager-worker.js'
    const worker = new Worker(new URL(file, import.meta.url), { workerData: input, transferList: [line.end.port], name: 'thaw pager' })
    return new PagerHandle(worker, line, bellFd)
  }

  get isAlive(): boolean {
    return this.#error === undefined && this.#closed === undefined
  }

  /** A number that no restore and no front end of this pager has. */
  number(): number {
    return ++this.#lastNumber
  }

  openRestore(restore: number, deadlineMs: number, images: readonly PagedImage[]): void {
    this.restores++
    this.#post({ kind: 'restore', restore, deadlineMs, images })
  }

  /** Shows an image anew: with an overlay that it did not have. Before a front end that uses it is started. */
  setImage(restore: number, image: PagedImage): void {
    this.#post({ kind: 'image', restore, image })
  }

  async startFrontEnd(restore: number, frontEnd: number, spec: FrontEndSpec, hooks: FrontEndHooks): Promise<void> {
    this.#frontEnds.set(frontEnd, hooks)
    this.#keepAlive()
    try {
      await this.#call(call => ({ kind: 'frontEnd', call, restore, frontEnd, spec }))
    } catch (error) {
      this.#frontEnds.delete(frontEnd)
      this.#keepAlive()
      throw error
    }
  }

  /** After this nothing of the front end is used any more. Does not reject. */
  async endFrontEnd(frontEnd: number): Promise<void> {
    await this.#call(call => ({ kind: 'endFrontEnd', call, frontEnd })).catch(() => undefined)
    this.#frontEnds.delete(frontEnd)
    this.#keepAlive()
  }

  /** Does not reject. */
  async endRestore(restore: number): Promise<void> {
    await this.#call(call => ({ kind: 'endRestore', call, restore })).catch(() => undefined)
    this.restores--
  }

  async #call(messageOf: (call: number) => ToPager): Promise<void> {
    if (this.#error !== undefined || this.#closed !== undefined) throw this.#reason()
    const call = this.number()
    const answer = Promise.withResolvers<void>()
    this.#calls.set(call, answer)
    this.#keepAlive()
    this.#post(messageOf(call))
    try {
      await answer.promise
    } finally {
      this.#calls.delete(call)
      this.#keepAlive()
    }
  }

  /** The process lives on while guests are served, or an answer is expected. */
  #keepAlive(): void {
    if (this.#calls.size > 0 || this.#frontEnds.size > 0) this.#worker.ref()
    else this.#worker.unref()
  }

  /** Has the thread leave its loop, whatever comes after. */
  stop(): void {
    this.#post({ kind: 'stop', call: this.number() })
  }

  #post(message: ToPager): void {
    this.#worker.postMessage(message)
    ringEventFd(this.#bellFd)
  }

  #hear(message: FromPager): void {
    if (message.kind === 'event') this.#frontEnds.get(message.frontEnd)?.onEvent(message.event)
    else if (message.kind === 'done') this.#calls.get(message.call)?.resolve()
    else this.#calls.get(message.call)?.reject(errorOf(message.failure, PAGER_THREAD))
  }

  #reason(): ThawError {
    return new ThawError('CLOSED', 'the pager has ended', { cause: this.#error })
  }

  #onExit(): void {
    this.#error ??= new Error('the thread ended')
    for (const call of this.#calls.values()) call.reject(this.#reason())
    for (const hooks of this.#frontEnds.values()) hooks.onPagerDied(this.#reason())
    this.#frontEnds.clear()
    handles.delete(this)
    if (handles.size === 0) process.off('exit', stopAll)
    void this.#line.close().then(() => {
      closeEventFd(this.#bellFd)
      this.#exited.resolve()
    })
  }

  close(): Promise<void> {
    this.#closed ??= this.#stop()
    return this.#closed
  }

  async #stop(): Promise<void> {
    this.#worker.ref()
    if (this.#error === undefined) this.stop()
    await this.#exited.promise
  }
}

const handles = new Set<PagerHandle>()

/** `process.exit` waits for every thread, and one that waits in epoll_wait would not hear of it. */
function stopAtExit(handle: PagerHandle): void {
  if (handles.size === 0) process.on('exit', stopAll)
  handles.add(handle)
}

function stopAll(): void {
  for (const handle of handles) handle.stop()
}
