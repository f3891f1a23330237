/**
 * Calls of the caller's thread to the engine's, and their answers. A thread that ended fails all that is under way and all that comes. It keeps the process alive while
 * somebody waits, and not otherwise.
 */
import type { Transferable, Worker } from 'node:worker_threads'
import { ThawError } from '../errors.ts'
import type { CallOptions } from '../store.ts'
import { errorOf, type Failure, failureOf } from '../util/failure.ts'
import type { Urgency } from '../util/urgency.ts'
import { ENGINE_THREAD } from './line.ts'
import type { FromHost, Lent, Request, ResultOf, ToHost } from './messages.ts'

export interface RemoteCallOptions extends CallOptions {
  readonly urgency?: Urgency | undefined
  /** What the request gives away. */
  readonly transfer?: readonly Transferable[] | undefined
  /** Looks at bytes that are lent; what it throws goes to the engine. */
  readonly onLent?: ((lent: Lent) => Promise<void>) | undefined
}

interface UnderWay {
  readonly resolve: (result: ResultOf[Request['kind']]) => void
  readonly reject: (error: unknown) => void
  readonly onLent: ((lent: Lent) => Promise<void>) | undefined
  /** Somebody looks at lent bytes. */
  looking: boolean
}

export class RemoteCalls {
  readonly #worker: Worker
  readonly #underWay = new Map<number, UnderWay>()
  #last = 0
  #ended: unknown

  constructor(worker: Worker) {
    this.#worker = worker
    worker.on('message', (message: FromHost) => this.#hear(message))
    worker.unref()
  }

  /** Rejects with the signal's reason as soon as it aborts, unless somebody looks at lent bytes just then: they are waited for. */
  async call<K extends Request['kind']>(request: Request & { readonly kind: K }, options: RemoteCallOptions = {}): Promise<ResultOf[K]> {
    const { signal, urgency, transfer = [], onLent } = options
    signal?.throwIfAborted()
    if (this.#ended !== undefined) throw this.#ended
    const call = ++this.#last
    const { promise, resolve, reject } = Promise.withResolvers<ResultOf[Request['kind']]>()
    const underWay: UnderWay = { resolve, reject, onLent, looking: false }
    const onAbort = (): void => {
      this.#post({ kind: 'abort', call })
      if (underWay.looking) return
      this.#underWay.delete(call)
      reject(signal!.reason)
    }
    this.#post({ kind: 'call', call, request, priority: urgency?.priority ?? 'demand' }, transfer)
    this.#underWay.set(call, underWay)
    this.#worker.ref()
    const stop = urgency?.onRaise(priority => this.#post({ kind: 'raise', call, priority }))
    signal?.addEventListener('abort', onAbort)
    try {
      return (await promise) as ResultOf[K]
    } finally {
      stop?.()
      signal?.removeEventListener('abort', onAbort)
      this.#underWay.delete(call)
      if (this.#underWay.size === 0) this.#worker.unref()
    }
  }

  /** Tells the engine that a snapshot is not read any more. */
  release(handle: number): void {
    this.#post({ kind: 'release', handle })
  }

  /** Rejects what is under way, and all later calls, with `reason`. The first reason counts. */
  end(reason: unknown): void {
    this.#ended ??= reason
    for (const { reject } of this.#underWay.values()) reject(this.#ended)
  }

  #hear(message: FromHost): void {
    if (message.kind === 'result') this.#underWay.get(message.call)?.resolve(message.result)
    else if (message.kind === 'failure') this.#underWay.get(message.call)?.reject(errorOf(message.failure, ENGINE_THREAD))
    else if (message.kind === 'lent') void this.#look(message.call, message.lent)
  }

  async #look(call: number, lent: Lent): Promise<void> {
    this.#post({ kind: 'verdict', call, failure: await this.#verdict(this.#underWay.get(call), lent) })
  }

  async #verdict(underWay: UnderWay | undefined, lent: Lent): Promise<Failure | undefined> {
    if (underWay?.onLent === undefined) return failureOf(new ThawError('CLOSED', 'not wanted any more'))
    underWay.looking = true
    try {
      await underWay.onLent(lent)
      return undefined
    } catch (error) {
      return failureOf(error)
    } finally {
      underWay.looking = false
    }
  }

  #post(message: ToHost, transfer: readonly Transferable[] = []): void {
    this.#worker.postMessage(message, transfer)
  }
}
