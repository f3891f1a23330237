/** A thread beside the engine's that opens chunks (opening-thread.ts), as the engine has it. One that died is started anew when it is needed. */
import { Worker } from 'node:worker_threads'
import type { ArenaMemory } from '../arena.ts'
import { ThawError } from '../errors.ts'
import type { ChunkRef } from '../seal.ts'
import { errorOf, type Failure } from '../util/failure.ts'
import type { SlabMemory } from '../util/slab.ts'
import { THREAD_LIMITS } from '../util/thread-limits.ts'

/** As of the threads that seal: what they work on lies outside of the heap. */
const LIMITS = { ...THREAD_LIMITS, maxOldGenerationSizeMb: 64, maxYoungGenerationSizeMb: 2 }

/** What is opened where. */
export interface OpeningMemory {
  readonly arena: ArenaMemory
  readonly slab: SlabMemory
}

/** A chunk in a slot of the slab that is to be opened into one of the arena. Plain data. */
export interface OpeningRequest extends ChunkRef {
  readonly slot: number
  readonly sealedSlot: number
  readonly sealedBytes: number
}

/** What became of a request, in the order of the requests; undefined: it is opened. The first of all says that the thread is up. */
export type OpeningReply = Failure | undefined

export class OpeningThread {
  readonly #memory: OpeningMemory
  readonly #pending: PromiseWithResolvers<void>[] = []
  #worker: Worker | undefined
  #isUp = false

  constructor(memory: OpeningMemory) {
    this.#memory = memory
  }

  get isUp(): boolean {
    return this.#isUp
  }

  /** Requests that are not answered yet. */
  get underWay(): number {
    return this.#pending.length
  }

  /** Starts it, unless it runs. It keeps the process alive only while it opens something. */
  start(): void {
    if (this.#worker !== undefined) return
    const file = new URL(import.meta.url.endsWith('.ts') ? './opening-thread.ts' : './opening-thread.js', import.meta.url)
    const { arena, slab } = this.#memory
    const workerData: OpeningMemory = { arena, slab: { memory: slab.memory, slotBytes: slab.slotBytes } }
    const worker = new Worker(file, { workerData, resourceLimits: LIMITS })
    worker.unref()
    worker.on('message', (reply: OpeningReply) => this.#hear(reply))
    worker.on('error', error => this.#end(worker, error)).on('exit', () => this.#end(worker, undefined))
    this.#worker = worker
  }

  /** `done` settles when it is opened, or is not. */
  open(request: OpeningRequest, done: PromiseWithResolvers<void>): void {
    this.#pending.push(done)
    this.#worker!.ref()
    this.#worker!.postMessage(request)
  }

  #hear(reply: OpeningReply): void {
    if (!this.#isUp) {
      this.#isUp = true
      return
    }
    const done = this.#pending.shift()!
    if (this.#pending.length === 0) this.#worker!.unref()
    if (reply === undefined) done.resolve()
    else done.reject(errorOf(reply, 'an opening thread'))
  }

  #end(worker: Worker, cause: unknown): void {
    if (this.#worker !== worker) return
    this.#worker = undefined
    this.#isUp = false
    this.#fail(new ThawError('UNAVAILABLE', 'a thread that opens chunks ended', { cause }))
  }

  #fail(error: ThawError): void {
    for (const done of this.#pending.splice(0)) done.reject(error)
  }

  /** Idempotent. */
  async close(): Promise<void> {
    const worker = this.#worker
    this.#worker = undefined
    this.#isUp = false
    await worker?.terminate()
    this.#fail(new ThawError('CLOSED', 'closed while chunks were being opened'))
  }
}
