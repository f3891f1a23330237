/**
 * Opening sealed chunks into the arena: 0.3 to 1.5 ms of a thread each.
 *
 * A demand that finds nothing else waiting is opened on the engine's thread, at once: no other thread
 * could be woken and be faster. That thread opens nothing but demands, and goes back to its event
 * loop after each. All else passes a gate to the threads beside it, which start when first needed,
 * and a demand that waits there is taken back by the engine's thread when that is free first.
 *
 * In virtual time, and on a machine with one processor, there are no other threads: what passes the
 * gate is opened here too, one a turn of the event loop.
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
  place: Place | undefined
  isTaken: boolean
}

export class Opening {
  readonly #arena: Arena
  readonly #threads: readonly OpeningThread[]
  readonly #gate: Gate
  /** Demands at the gate, the oldest first; some are taken already. */
  #demands: Job[] = []
  /** The engine's thread has opened one in this turn of its event loop. */
  #hadTurn = false
  #isClosed = false

  constructor(memory: OpeningMemory, clock: Clock, threads: number = clock === systemClock ? threadCount() : 0) {
    this.#arena = new Arena(memory.arena)
    this.#threads = Array.from({ length: threads }, () => new OpeningThread(memory))
    this.#gate = new Gate({ countMax: Math.max(1, threads * CHUNKS_PER_THREAD) })
  }

  /**
   * Verifies a sealed chunk of the slab and opens it into a slot of the arena. Both are being used until this settles.
   * @throws CORRUPT, BAD_FORMAT; UNAVAILABLE if a thread ended meanwhile
   */
  async open(sealed: SealedBytes, chunk: ChunkRef, slot: number, request: GateRequest): Promise<void> {
    const isDemand = (request.urgency?.priority ?? 'demand') === 'demand'
    const job: Job = { sealed, chunk, slot, done: Promise.withResolvers(), place: undefined, isTaken: false }
    if (isDemand && !this.#hadTurn) {
      this.#endTurn()
      this.#openHere(job)
    } else {
      job.place = this.#gate.enter(request, place => this.#give(job, place))
      if (isDemand && !job.isTaken) this.#demands.push(job)
    }
    await job.done.promise
  }

  /** To a thread that is up, or else to this one in a later turn. */
  #give(job: Job, place: Place): void {
    job.isTaken = true
    void job.done.promise.catch(() => undefined).finally(() => place.leave())
    if (this.#isClosed) {
      job.done.reject(new ThawError('CLOSED', 'closed while chunks waited to be opened'))
      return
    }
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

  /** In the next turn this thread is free, and takes back the first demand that waits. */
  #endTurn(): void {
    this.#hadTurn = true
    setImmediate(() => {
      this.#hadTurn = false
      const waiting = this.#demands.findIndex(({ isTaken }) => !isTaken)
      if (waiting < 0) {
        this.#demands = []
        return
      }
      const job = this.#demands[waiting]!
      this.#demands.splice(0, waiting + 1)
      job.isTaken = true
      job.place!.leave()
      this.#endTurn()
      this.#openHere(job)
    })
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
