/**
 * Opening sealed chunks into the arena: 0.3 to 1.5 ms of a thread each.
 *
 * The engine's thread opens one demand a turn of its event loop, so one that comes alone is opened at
 * once: no other thread could be woken and be faster. All else goes to threads beside it, which start
 * when first needed. Both are places of one gate, so who waits for either is served in its order.
 *
 * In virtual time, and on a machine with one processor, there are no other threads: all is opened
 * here, one a turn of the event loop.
 */
import { availableParallelism } from 'node:os'
import { Arena } from '../arena.ts'
import type { SealedBytes } from '../cache/tiered.ts'
import { ThawError } from '../errors.ts'
import { type ChunkRef, OpenedChunk } from '../seal.ts'
import { type Clock, systemClock } from '../util/clock.ts'
import { Gate, type GateRequest, type Place } from '../util/gate.ts'
import { type OpeningMemory, OpeningThread } from './opening-threads.ts'

/** More than these are bound by memory. */
const THREADS_MAX = 4
/** One that a thread opens, and one so that it need not wait for the next. */
const CHUNKS_PER_THREAD = 2

interface Job {
  readonly sealed: SealedBytes
  readonly chunk: ChunkRef
  /** Of the arena. */
  readonly slot: number
  readonly done: PromiseWithResolvers<void>
}

export class Opening {
  readonly #arena: Arena
  readonly #threads: readonly OpeningThread[]
  readonly #gate: Gate
  /** The engine's thread has opened one in this turn of its event loop. */
  #hadTurn = false
  #isClosed = false

  constructor(memory: OpeningMemory, clock: Clock, threads: number = clock === systemClock ? threadCount() : 0) {
    this.#arena = new Arena(memory.arena)
    this.#threads = Array.from({ length: threads }, () => new OpeningThread(memory))
    this.#gate = new Gate({ countMax: 1 + threads * CHUNKS_PER_THREAD })
  }

  /**
   * Verifies a sealed chunk of the slab and opens it into a slot of the arena. Both are being used until this settles.
   * @throws CORRUPT, BAD_FORMAT; UNAVAILABLE if a thread ended meanwhile
   */
  async open(sealed: SealedBytes, chunk: ChunkRef, slot: number, request: GateRequest): Promise<void> {
    const job: Job = { sealed, chunk, slot, done: Promise.withResolvers() }
    this.#gate.enter(request, place => this.#give(job, place, request))
    await job.done.promise
  }

  #give(job: Job, place: Place, { urgency }: GateRequest): void {
    const isDemand = (urgency?.priority ?? 'demand') === 'demand'
    if (this.#isClosed) {
      place.leave()
      job.done.reject(new ThawError('CLOSED', 'closed while chunks waited to be opened'))
    } else if (this.#threads.length === 0 || (isDemand && !this.#hadTurn)) this.#takeTurn(job, place)
    else {
      void job.done.promise.catch(() => undefined).finally(() => place.leave())
      this.#giveToThread(job)
    }
  }

  /** Opens it here, once those who are admitted beside it are with the threads. */
  #takeTurn(job: Job, place: Place): void {
    this.#hadTurn = true
    queueMicrotask(() => this.#openHere(job))
    setImmediate(() => {
      this.#hadTurn = false
      place.leave()
    })
  }

  /** To one that is up, or else here in a later turn. */
  #giveToThread(job: Job): void {
    for (const thread of this.#threads) thread.start()
    const thread = this.#threads.filter(({ isUp }) => isUp).sort((a, b) => a.underWay - b.underWay)[0]
    if (thread === undefined) setImmediate(() => this.#openHere(job))
    else thread.open({ ...job.chunk, slot: job.slot, sealedSlot: job.sealed.slot, sealedBytes: job.sealed.bytes.length }, job.done)
  }

  #openHere({ sealed, chunk, slot, done }: Job): void {
    try {
      OpenedChunk.open(sealed.bytes, chunk, this.#arena.pages(slot))
      done.resolve()
    } catch (error) {
      done.reject(error)
    }
  }

  /** Ends the threads. What they are opening fails with CLOSED. */
  async close(): Promise<void> {
    this.#isClosed = true
    await Promise.all(this.#threads.map(thread => thread.close()))
  }
}

function threadCount(): number {
  return Math.min(availableParallelism() - 1, THREADS_MAX)
}
