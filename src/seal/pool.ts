/**
 * Worker threads that seal, open and write chunks, so that nothing heavy runs on the caller's thread. A pool lives as long as one push, pull or verification.
 *
 * Each worker has a few requests: one it works on, the others so that it need not wait for the next. They are posted by twos, because waking a thread costs as much
 * as looking at a range that did not change.
 */
import type { Worker } from 'node:worker_threads'
import { ThawError } from '../errors.ts'
import { SEALED_BYTES_MAX } from '../seal.ts'
import { errorOf } from '../util/failure.ts'
import { Slab, type SlabMemory, type Slot } from '../util/slab.ts'
import type { Reply, Request, ResultOf, SealingKey, Task, WorkerOptions } from './tasks.ts'
import { giveBack, takeThread, threadCount, wantsNice } from './threads.ts'

const REQUESTS_PER_WORKER = 4
/** Fewer than this: post more. */
const REQUESTS_LOW = 3

interface Pending {
  readonly request: Request
  readonly resolve: (result: ResultOf[Task['kind']]) => void
  readonly reject: (error: unknown) => void
}

interface Member {
  readonly worker: Worker
  readonly pending: Pending[]
  readonly onMessage: (reply: Reply) => void
}

export interface PoolOptions {
  /** Chunks under way besides those the workers hold: the bound on memory, 516 KiB each. */
  readonly slots: number
  /** Needed for `scan` and `seal`. */
  readonly sealing?: SealingKey
  /** Needed for `open`, `write` and `verify`. */
  readonly sealedSlab?: SlabMemory
}

export class SealPool implements AsyncDisposable {
  readonly #slab: Slab
  readonly #members: Member[]
  readonly #queue: Pending[] = []
  readonly #onError = (error: unknown): void => this.#end(error)
  #ended: unknown

  constructor({ slots, sealing, sealedSlab }: PoolOptions) {
    const count = threadCount()
    this.#slab = new Slab(slots + count * REQUESTS_PER_WORKER, SEALED_BYTES_MAX)
    const { memory, slotBytes } = this.#slab
    const options = { slab: { memory, slotBytes }, sealedSlab, sealing, nice: wantsNice() }
    this.#members = Array.from({ length: count }, () => this.#enlist(options))
  }

  #enlist(options: WorkerOptions): Member {
    const worker = takeThread()
    worker.postMessage(options)
    const member: Member = { worker, pending: [], onMessage: reply => this.#settle(member, reply) }
    worker.on('message', member.onMessage).on('error', this.#onError)
    return member
  }

  #settle(member: Member, reply: Reply): void {
    const pending = member.pending.shift()
    this.#feed(member)
    if (pending === undefined) return
    if ('result' in reply) pending.resolve(reply.result)
    else pending.reject(errorOf(reply.failure, 'a sealing thread'))
  }

  /** A slot to work in; the caller releases it. */
  acquire(): Promise<Slot> {
    return this.#slab.acquire()
  }

  /** Does the task on the slot's bytes, if it needs one: they are the worker's until the promise settles. */
  run<T extends Task>(slot: Slot | undefined, task: T): Promise<ResultOf[T['kind']]> {
    const { promise, resolve, reject } = Promise.withResolvers<ResultOf[Task['kind']]>()
    if (this.#ended !== undefined) reject(this.#ended)
    else {
      this.#queue.push({ request: { slot: slot?.index, task }, resolve, reject })
      const idle = this.#members.reduce((a, b) => (b.pending.length < a.pending.length ? b : a))
      this.#feed(idle)
    }
    return promise as Promise<ResultOf[T['kind']]>
  }

  #feed(member: Member): void {
    if (member.pending.length < REQUESTS_LOW && this.#queue.length > 0) {
      const next = this.#queue.splice(0, REQUESTS_PER_WORKER - member.pending.length)
      member.pending.push(...next)
      member.worker.postMessage(next.map(({ request }) => request))
    }
    // A worker keeps the process alive only while somebody waits for it.
    if (member.pending.length > 0) member.worker.ref()
    else member.worker.unref()
  }

  #end(reason: unknown): void {
    this.#ended ??= reason
    const waiting = [...this.#members.flatMap(member => member.pending.splice(0)), ...this.#queue.splice(0)]
    for (const { reject } of waiting) reject(this.#ended)
  }

  /** Rejects what is under way with CLOSED. Threads that have nothing to do are left to the next pool, the others are ended. Idempotent. */
  async close(): Promise<void> {
    const free = new Set(this.#members.filter(({ pending }) => this.#ended === undefined && pending.length === 0))
    this.#end(new ThawError('CLOSED', 'closed while chunks were under way'))
    const members = this.#members.splice(0)
    await Promise.all(
      members.map(member => {
        member.worker.off('message', member.onMessage).off('error', this.#onError)
        return free.has(member) ? giveBack(member.worker) : member.worker.terminate()
      }),
    )
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}
