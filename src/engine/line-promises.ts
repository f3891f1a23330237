/**
 * The reading side of a line for a thread with an event loop: a promise a want, errors with all their words. Wants beyond what a line takes wait here, demands first.
 *
 * It keeps the process alive while somebody waits, and not otherwise.
 */
import { receiveMessageOnPort } from 'node:worker_threads'
import { ABSENT, type Arena } from '../arena.ts'
import type { Pinned, WantOptions } from '../engine.ts'
import { type ErrorCode, ThawError } from '../errors.ts'
import { Deadline } from '../util/deadline.ts'
import { errorOf, type Failure } from '../util/failure.ts'
import { Gate, type Place } from '../util/gate.ts'
import { Urgency } from '../util/urgency.ts'
import { ENGINE_THREAD, endLine, type LineEnd, type ToClient, WANTS_MAX } from './line.ts'
import { type Completion, LineClient } from './line-client.ts'

/** Longer than the engine takes to give a read up. */
const ANSWER_TIMEOUT_MS = 70_000

type Waiting = Pick<PromiseWithResolvers<Pinned>, 'resolve' | 'reject'>

/** A want that was put on the line. */
interface Asked extends PromiseWithResolvers<Pinned> {
  readonly place: Place
  readonly request: number
}

export class LinePromises {
  readonly #end: LineEnd
  readonly #arena: Pick<Arena, 'unpin'>
  readonly #client: LineClient
  /** By the request's number. One that is outstanding and not here is one that nobody waits for any more. */
  readonly #waiting = new Map<number, Waiting>()
  /** Those that were cancelled take room until the engine has answered. */
  readonly #gate = new Gate({ countMax: WANTS_MAX, isReady: () => this.#client.outstanding < WANTS_MAX })
  /** By the request's number: what went ahead of a completion. */
  readonly #failures = new Map<number, Failure>()
  #isOpen = true

  /** The bell of the line must be a message. */
  constructor(end: LineEnd, arena: Pick<Arena, 'unpin'>) {
    this.#end = end
    this.#arena = arena
    this.#client = new LineClient(end)
    end.port.on('message', (message: ToClient) => this.#hear(message)).on('close', this.#onClose)
    this.#look()
  }

  /** As `HeldSnapshot.want`, by the snapshot's handle. The engine keeps the deadline of a read; TIMEOUT here is an engine that itself hangs. */
  async want(handle: number, chunk: number, { urgency = new Urgency(), owner, signal }: WantOptions = {}): Promise<Pinned> {
    const silent = (): ThawError =>
      new ThawError('TIMEOUT', `the thread that reads from stores has not answered for ${ANSWER_TIMEOUT_MS} ms`, { object: 'the cache' })
    using deadline = new Deadline(ANSWER_TIMEOUT_MS, silent, { signals: [signal] })
    return await this.#want(handle, chunk, { urgency, owner }, deadline.signal)
  }

  async #want(
    handle: number,
    chunk: number,
    { urgency, owner }: WantOptions & { readonly urgency: Urgency },
    signal: AbortSignal,
  ): Promise<Pinned> {
    const ask = (place: Place): Asked => this.#ask(place, handle, chunk, urgency)
    const { place, request, promise, reject } = await this.#gate.admitTo(ask, { urgency, owner }, signal)
    const onAbort = (): void => {
      if (this.#waiting.delete(request)) this.#client.cancel(request)
      reject(signal.reason)
    }
    const stop = urgency.onRaise(priority => this.#client.raise(request, priority))
    signal.addEventListener('abort', onAbort)
    if (signal.aborted) onAbort()
    // Nobody rings any more.
    if (!this.#isOpen) this.#look()
    try {
      return await promise
    } finally {
      stop()
      signal.removeEventListener('abort', onAbort)
      place.leave()
    }
  }

  #ask(place: Place, handle: number, chunk: number, { priority }: Urgency): Asked {
    const request = this.#client.want(handle, chunk, priority)
    const settled = Promise.withResolvers<Pinned>()
    this.#waiting.set(request, settled)
    this.#end.port.ref()
    return { ...settled, place, request }
  }

  readonly #onClose = (): void => {
    this.#isOpen = false
    this.end('UNAVAILABLE')
  }

  countHits(chunks: number, bytes: number): void {
    this.#client.countHits(chunks, bytes)
  }

  /** The engine's side is gone, or will answer no more: whoever waits, or wants from now on, gets that code, unless the engine said another. */
  end(code: ErrorCode): void {
    endLine(this.#end, code)
    this.#look()
  }

  #hear(message: ToClient): void {
    this.#note(message)
    this.#look()
  }

  #note(message: ToClient): void {
    if (message !== null) this.#failures.set(message.request, message.failure)
  }

  /** Takes what came, begins what can be, and asks for a bell. */
  #look(): void {
    do {
      for (let done = this.#client.next(); done !== undefined; done = this.#client.next()) this.#settle(done)
      this.#gate.look()
    } while (!this.#client.sleep())
    if (this.#client.outstanding === 0) this.#end.port.unref()
  }

  #settle({ request, slot, tier, code }: Completion): void {
    const waiting = this.#waiting.get(request)
    this.#waiting.delete(request)
    if (slot === ABSENT) {
      const error = this.#takeError(request, code)
      waiting?.reject(error)
    } else if (waiting === undefined) this.#arena.unpin(slot)
    else waiting.resolve({ slot, tier })
  }

  #takeError(request: number, code: ErrorCode | undefined): Error {
    // It was posted before the completion was put into the ring, so it is here, if not heard yet. (Of a port that is closed, Node 24 receives a segmentation fault.)
    while (this.#isOpen && !this.#failures.has(request)) {
      const received: { readonly message: ToClient } | undefined = receiveMessageOnPort(this.#end.port)
      if (received === undefined) break
      this.#note(received.message)
    }
    const failure = this.#failures.get(request)
    this.#failures.delete(request)
    if (failure !== undefined) return errorOf(failure, ENGINE_THREAD)
    return code === 'CLOSED'
      ? new ThawError('CLOSED', 'the cache is closed', { object: 'the cache' })
      : new ThawError(code ?? 'UNAVAILABLE', 'the thread that reads from stores ended: open the cache again', { object: 'the cache' })
  }
}
