/**
 * The engine on a worker of its own, as the caller's thread has it: the same contract, by messages for what is seldom and by a line for chunks. Hits are read from the arena
 * here as anywhere.
 *
 * The worker is told the options of the caches (an L2 password among them), the URLs of stores and the chunk keys of open snapshots; no other key leaves this thread. It
 * reads stores with credentials of its own, from the environment both share.
 *
 * If the worker dies, everything under way rejects with UNAVAILABLE, and so does everything after it: the cache has to be opened again.
 */
import { SHARE_ENV, Worker } from 'node:worker_threads'
import { Arena, type ArenaMemory } from '../arena.ts'
import type { CacheDescription } from '../cache.ts'
import type { ClearedCache, Engine, EngineStore, Line } from '../engine.ts'
import { isThawError, ThawError, type Tier } from '../errors.ts'
import { giveWay } from '../seal/threads.ts'
import type { ReadFigures } from '../stats.ts'
import type { ObjectStore } from '../store.ts'
import { errorOf } from '../util/failure.ts'
import { Lifetime } from '../util/lifetime.ts'
import { THREAD_LIMITS } from '../util/thread-limits.ts'
import { ENGINE_THREAD, endLine, type LineEnd } from './line.ts'
import { OpenedLine, openEnds } from './line-open.ts'
import { LinePromises } from './line-promises.ts'
import type { FromHost } from './messages.ts'
import { RemoteCalls } from './remote-calls.ts'
import { RemoteStore } from './remote-store.ts'
import type { EngineOptions } from './start.ts'

/** Starts the thread of an engine. */
export function startThread(options: EngineOptions): Worker {
  const file = new URL(import.meta.url.endsWith('.ts') ? './worker.ts' : './engine-worker.js', import.meta.url)
  return new Worker(file, { workerData: options, env: SHARE_ENV, resourceLimits: THREAD_LIMITS })
}

export class RemoteEngine implements Engine {
  readonly arena: Arena
  readonly #worker: Worker
  readonly #calls: RemoteCalls
  readonly #line: LinePromises
  readonly #life = new Lifetime('the cache')
  /** Opened for other threads, by number. */
  readonly #lines = new Map<number, LineEnd>()
  #lastNumber = 0
  #closed: Promise<void> | undefined

  private constructor(worker: Worker, arena: ArenaMemory, line: LineEnd) {
    this.arena = new Arena(arena)
    this.#worker = worker
    this.#calls = new RemoteCalls(worker)
    this.#line = new LinePromises(line, this.arena)
    worker.on('error', error => this.#die(error)).on('exit', () => this.#die(undefined))
  }

  /**
   * Over a thread that was just started, which it ends when it is closed.
   * @throws what `startEngine` throws; UNAVAILABLE if the thread ends meanwhile
   */
  static async over(worker: Worker): Promise<RemoteEngine> {
    // First of all: what a worker says before anybody listens is lost.
    const starting = started(worker)
    const { reader, engine: end } = await openEnds('message')
    const arena = await starting
    const engine = new RemoteEngine(worker, arena, reader)
    await engine.#calls.call({ kind: 'openLine', line: engine.#number(), end }, { transfer: [end.port] })
    // Whatever is done in bulk in this process makes room for those who wait for the engine.
    giveWay()
    return engine
  }

  openStore({ url }: ObjectStore): Promise<EngineStore> {
    return this.#life.run(undefined, async () => {
      const store = this.#number()
      const opened = await this.#calls.call({ kind: 'openStore', store, url })
      return new RemoteStore({ arena: this.arena, calls: this.#calls, line: this.#line }, store, opened)
    })
  }

  openLine(bell: 'eventfd' | 'message'): Promise<Line> {
    return this.#life.run(undefined, async () => {
      const { reader, engine: end } = await openEnds(bell)
      const line = this.#number()
      const opened = new OpenedLine(reader, () => this.#closeLine(line))
      this.#lines.set(line, reader)
      try {
        await this.#calls.call({ kind: 'openLine', line, end }, { transfer: [end.port] })
        return opened
      } catch (error) {
        await opened.close()
        throw error
      }
    })
  }

  async #closeLine(line: number): Promise<void> {
    this.#lines.delete(line)
    await this.#unlessEnded(this.#calls.call({ kind: 'closeLine', line }))
  }

  countHits(chunks: number, bytes: number): void {
    this.#line.countHits(chunks, bytes)
  }

  figures(): Promise<ReadFigures> {
    return this.#life.run(undefined, () => this.#calls.call({ kind: 'figures' }))
  }

  describe(): Promise<readonly CacheDescription[]> {
    return this.#life.run(undefined, () => this.#calls.call({ kind: 'describe' }))
  }

  clear(tiers: readonly Tier[]): Promise<readonly ClearedCache[]> {
    return this.#life.run(undefined, () => this.#calls.call({ kind: 'clear', tiers }))
  }

  async settled(): Promise<void> {
    await this.#calls.call({ kind: 'settled' })
  }

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    const closed = this.#life.close()
    await this.#unlessEnded(this.#calls.call({ kind: 'close' }))
    this.#end(this.#life.signal.reason)
    await this.#worker.terminate()
    await closed
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #die(cause: unknown): void {
    this.#end(threadEnded(cause))
  }

  /** Nothing comes from the worker any more. The first reason counts. */
  #end(reason: ThawError): void {
    this.#calls.end(reason)
    this.#line.end(reason.code)
    for (const end of this.#lines.values()) endLine(end, reason.code)
  }

  /** An engine that ended has done what was asked: it holds nothing any more. */
  async #unlessEnded(done: Promise<unknown>): Promise<void> {
    try {
      await done
    } catch (error) {
      if (!isThawError(error, 'CLOSED', 'UNAVAILABLE')) throw error
    }
  }

  #number(): number {
    return ++this.#lastNumber
  }
}

/** The first word of the thread. */
async function started(worker: Worker): Promise<ArenaMemory> {
  const message = await new Promise<FromHost>((resolve, reject) => {
    worker.once('message', resolve).once('error', error => reject(threadEnded(error)))
    worker.once('exit', () => reject(threadEnded(undefined)))
  })
  if (message.kind === 'started') return message.arena
  await worker.terminate()
  throw message.kind === 'notStarted' ? errorOf(message.failure, ENGINE_THREAD) : threadEnded(undefined)
}

function threadEnded(cause: unknown): ThawError {
  return new ThawError('UNAVAILABLE', 'the thread that reads from stores ended: open the cache again', { object: 'the cache', cause })
}
