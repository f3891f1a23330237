/**
 * One pager's thread, as main holds it: what it is asked, each request with an answer, and the restores that it serves.
 *
 * When the thread ends, whatever ended it, every request that is under way fails, the descriptors that its front ends had open are closed, and each of their main halves is told.
 */
import { closeSync } from 'node:fs'
import { Worker } from 'node:worker_threads'
import type { Engine, Line } from '../engine.ts'
import { fromErrno, ThawError } from '../errors.ts'
import type { FrontEndEvent, FrontEndSpec, PagedImage } from '../pager.ts'
import { Descriptor } from '../util/descriptor.ts'
import { openEventFd, ringEventFd } from '../util/eventfd.ts'
import { errorOf } from '../util/failure.ts'
import { loadNative } from '../util/native.ts'
import { settledWithin } from '../util/settled-within.ts'
import { systemError } from '../util/system-error.ts'
import { THREAD_LIMITS } from '../util/thread-limits.ts'
import type { FromPager, PagerInput, PagerRequest, ToPager } from './messages.ts'
import { OpenDescriptors } from './open-descriptors.ts'

/** What a front end's main half gives when it is started. */
export interface FrontEndHooks {
  readonly onEvent: (event: FrontEndEvent) => void
  /** Nothing is served any more, or nobody heeds it: its pager died, `onEvent` threw, its restore ended before it. Whoever waits at its descriptors must not wait for ever. */
  readonly onDied: (error: Error) => void
}

/** A front end that a pager serves. */
export interface PagedFrontEnd {
  /** Afterwards nothing of it is used any more: its descriptors may be closed. Idempotent, does not reject. */
  end(): Promise<void>
}

const PAGER_THREAD = "a pager's thread"
/** What a thread that was told to stop may take: it ends its front ends. */
const STOP_MS = 10_000
/** <sys/epoll.h> */
const EPOLL_CLOEXEC = 0o2000000

/** The descriptors by which main reaches a pager's thread. */
interface PagerDescriptors {
  readonly epoll: Descriptor
  readonly bell: Descriptor
}

export class PagerHandle {
  /** Resolves when the thread has ended and everything it had is closed. */
  readonly exited: Promise<void>
  readonly #worker: Worker
  readonly #line: Line
  readonly #own: PagerDescriptors
  readonly #served: OpenDescriptors
  readonly #calls = new Map<number, PromiseWithResolvers<void>>()
  readonly #frontEnds = new Map<number, FrontEndHooks>()
  /** Of the thread alone. */
  readonly #ended = Promise.withResolvers<void>()
  readonly #exit = Promise.withResolvers<void>()
  #lastNumber = 0
  #error: Error | undefined
  #closed: Promise<void> | undefined
  /** Restores that are served, or about to be. */
  restores = 0

  private constructor(worker: Worker, line: Line, own: PagerDescriptors, served: OpenDescriptors) {
    this.#worker = worker
    this.#line = line
    this.#own = own
    this.#served = served
    this.exited = this.#exit.promise
    worker.on('message', (message: FromPager) => this.#hear(message))
    worker.on('error', error => {
      this.#error = error
    })
    worker.once('exit', () => void this.#onExit())
    this.#keepAlive()
    stopAtExit(this)
  }

  /** @throws UNSUPPORTED without koffi; UNAVAILABLE if no descriptor is free; CLOSED */
  static async start(engine: Engine, spinMicroseconds: number | undefined): Promise<PagerHandle> {
    const own = await openDescriptors()
    let line: Line | undefined
    try {
      line = await engine.openLine('eventfd')
      const descriptors = OpenDescriptors.allocate()
      const input: PagerInput = {
        arena: engine.arena.memory,
        line: line.end,
        epollFd: own.epoll.fd,
        bellFd: own.bell.fd,
        descriptors,
        spinMicroseconds,
      }
      // Bundled, the threads lie beside each other, and this file in one of the chunks beside them.
      const file = import.meta.url.endsWith('.ts') ? '../frontend/worker.ts' : './pager-worker.js'
      const worker = new Worker(new URL(file, import.meta.url), {
        workerData: input,
        transferList: [line.end.port],
        name: 'thaw pager',
        resourceLimits: THREAD_LIMITS,
      })
      return new PagerHandle(worker, line, own, new OpenDescriptors(descriptors, closeSync))
    } catch (error) {
      await line?.close()
      closeBoth(own)
      throw error
    }
  }

  get isAlive(): boolean {
    return this.#error === undefined && this.#closed === undefined
  }

  /** @throws CLOSED if the thread has ended */
  async openRestore(deadlineMs: number, images: readonly PagedImage[]): Promise<PagedRestore> {
    const number = ++this.#lastNumber
    await this.#call({ kind: 'openRestore', restore: number, deadlineMs, images })
    return new PagedRestore(this, number)
  }

  /** @internal */
  async setImage(restore: number, image: PagedImage): Promise<void> {
    await this.#call({ kind: 'setImage', restore, image })
  }

  /** @internal */
  async startFrontEnd(restore: number, spec: FrontEndSpec, hooks: FrontEndHooks): Promise<PagedFrontEnd> {
    const number = ++this.#lastNumber
    this.#frontEnds.set(number, hooks)
    try {
      await this.#call({ kind: 'startFrontEnd', restore, frontEnd: number, spec })
    } catch (error) {
      this.#forget(number)
      throw error
    }
    let ended: Promise<void> | undefined
    const end = (): Promise<void> => {
      ended ??= this.#tryCall({ kind: 'endFrontEnd', frontEnd: number }).then(() => this.#forget(number))
      return ended
    }
    return { end }
  }

  /** @internal Does not reject. */
  async endRestore(restore: number): Promise<void> {
    await this.#tryCall({ kind: 'endRestore', restore })
    this.restores--
  }

  #forget(frontEnd: number): void {
    this.#frontEnds.delete(frontEnd)
    this.#keepAlive()
  }

  /** For what is over when the thread is, too. */
  async #tryCall(request: PagerRequest): Promise<void> {
    await this.#call(request).catch(() => (this.isAlive ? undefined : this.#ended.promise))
  }

  async #call(request: PagerRequest): Promise<void> {
    if (!this.isAlive) throw this.#reason()
    const number = ++this.#lastNumber
    const answer = Promise.withResolvers<void>()
    this.#calls.set(number, answer)
    this.#keepAlive()
    try {
      this.#post({ number, request })
      await answer.promise
    } finally {
      this.#calls.delete(number)
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
    this.#post({ number: ++this.#lastNumber, request: { kind: 'stop' } })
  }

  #post(message: ToPager): void {
    this.#worker.postMessage(message)
    ringEventFd(this.#own.bell.fd)
  }

  #hear(message: FromPager): void {
    if (message.kind === 'done') this.#calls.get(message.number)?.resolve()
    else if (message.kind === 'failed') this.#calls.get(message.number)?.reject(errorOf(message.failure, PAGER_THREAD))
    else this.#tell(message.frontEnd, message.event)
  }

  /** A main half that fails is one front end's trouble. */
  #tell(frontEnd: number, event: FrontEndEvent): void {
    const hooks = this.#frontEnds.get(frontEnd)
    try {
      hooks?.onEvent(event)
    } catch (error) {
      hooks!.onDied(new Error(`its main half failed: ${String(error)}`, { cause: error }))
    }
  }

  #reason(): ThawError {
    return new ThawError('CLOSED', 'the pager has ended', { cause: this.#error })
  }

  async #onExit(): Promise<void> {
    this.#error ??= new Error('the thread ended')
    handles.delete(this)
    if (handles.size === 0) process.off('exit', stopAll)
    this.#served.closeAll()
    this.#ended.resolve()
    for (const call of this.#calls.values()) call.reject(this.#reason())
    for (const hooks of this.#frontEnds.values()) hooks.onDied(this.#reason())
    this.#frontEnds.clear()
    await this.#line.close()
    closeBoth(this.#own)
    this.#exit.resolve()
  }

  /** Has the thread end its front ends, and then itself. Does not wait for ever for it: see `terminate`. Idempotent. */
  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    this.#worker.ref()
    if (this.#error === undefined) this.stop()
    if (!(await settledWithin(STOP_MS, this.exited))) await this.terminate()
  }

  /** Ends the thread wherever it is. What it served is told as if it had died. */
  async terminate(): Promise<void> {
    const ended = this.#worker.terminate()
    // It may wait for its descriptors.
    if (this.#error === undefined) ringEventFd(this.#own.bell.fd)
    await ended
    await this.exited
  }
}

/** A restore on its pager. Nothing is asked about it after its end. */
export class PagedRestore {
  readonly #pager: PagerHandle
  readonly #number: number
  /** Those that have not ended. */
  readonly #hooks = new Set<FrontEndHooks>()
  #ended: Promise<void> | undefined

  constructor(pager: PagerHandle, number: number) {
    this.#pager = pager
    this.#number = number
  }

  /** Shows an image anew: with an overlay that it did not have. Before a front end that uses it is started. @throws CLOSED */
  async setImage(image: PagedImage): Promise<void> {
    this.#checkOpen()
    await this.#pager.setImage(this.#number, image)
  }

  /** @throws CLOSED; what the start of the front end throws there */
  async start(spec: FrontEndSpec, hooks: FrontEndHooks): Promise<PagedFrontEnd> {
    this.#checkOpen()
    const frontEnd = await this.#pager.startFrontEnd(this.#number, spec, hooks)
    this.#hooks.add(hooks)
    return { end: () => frontEnd.end().finally(() => this.#hooks.delete(hooks)) }
  }

  /** Ends front ends that are left, too, and tells them. Idempotent, does not reject. */
  end(): Promise<void> {
    this.#ended ??= this.#end()
    return this.#ended
  }

  async #end(): Promise<void> {
    await this.#pager.endRestore(this.#number)
    for (const { onDied } of this.#hooks) onDied(closedError())
  }

  #checkOpen(): void {
    if (this.#ended !== undefined) throw closedError()
  }
}

function closedError(): ThawError {
  return new ThawError('CLOSED', 'the pager does not serve that restore any more')
}

async function openDescriptors(): Promise<PagerDescriptors> {
  const native = await loadNative('serving guests')
  const bell = new Descriptor(await openEventFd())
  const epoll = native.epollCreate(EPOLL_CLOEXEC)
  if (epoll >= 0) return { bell, epoll: new Descriptor(epoll) }
  const error = systemError(native, 'epoll_create1')
  bell.close()
  throw fromErrno(error, 'cannot make', 'an epoll')
}

function closeBoth({ epoll, bell }: PagerDescriptors): void {
  epoll.close()
  bell.close()
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
