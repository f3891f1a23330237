/**
 * The engine's thread, as the caller's thread reaches it: takes calls, has the engine do them, posts what came of it. Any number are under way at a time.
 */
import type { MessagePort } from 'node:worker_threads'
import type { SealedBytes } from '../cache/tiered.ts'
import type { EngineStore, HeldSnapshot } from '../engine.ts'
import { ThawError } from '../errors.ts'
import { openObjectStore } from '../store/open.ts'
import type { ObjectStore } from '../store.ts'
import { errorOf, failureOf } from '../util/failure.ts'
import { copyOfLong } from '../util/long-bytes.ts'
import { Urgency } from '../util/urgency.ts'
import type { LineServer } from './line-server.ts'
import type { LocalEngine } from './local.ts'
import type { FromHost, Request, ResultOf, ToHost } from './messages.ts'

interface Call {
  readonly urgency: Urgency
  readonly controller: AbortController
  /** Where bytes are lent: waits for the verdict. */
  verdict?: PromiseWithResolvers<void>
}

interface HostedStore {
  readonly objects: ObjectStore
  readonly engine: EngineStore
}

/** Where an error of a verdict comes from. */
const CALLER = "the caller's thread"

export class EngineHost {
  readonly #engine: LocalEngine
  readonly #port: MessagePort
  readonly #calls = new Map<number, Call>()
  readonly #stores = new Map<number, HostedStore>()
  readonly #snapshots = new Map<number, HeldSnapshot>()
  readonly #lines = new Map<number, LineServer>()

  constructor(engine: LocalEngine, port: MessagePort) {
    this.#engine = engine
    this.#port = port
    port.on('message', (message: ToHost) => this.#hear(message))
    this.#post({ kind: 'started', arena: engine.arena.memory })
  }

  #hear(message: ToHost): void {
    switch (message.kind) {
      case 'call':
        void this.#answer(message.call, message.request, {
          urgency: new Urgency(message.priority),
          controller: new AbortController(),
        })
        return
      case 'abort':
        this.#calls.get(message.call)?.controller.abort(new ThawError('CLOSED', 'not wanted any more'))
        return
      case 'raise':
        this.#calls.get(message.call)?.urgency.raise(message.priority)
        return
      case 'verdict': {
        const { verdict } = this.#calls.get(message.call) ?? {}
        if (message.failure === undefined) verdict?.resolve()
        else verdict?.reject(errorOf(message.failure, CALLER))
        return
      }
      case 'release':
        this.#snapshots.get(message.handle)?.release()
        this.#snapshots.delete(message.handle)
    }
  }

  async #answer(id: number, request: Request, call: Call): Promise<void> {
    this.#calls.set(id, call)
    try {
      const result = await this.#do(id, request, call)
      this.#post({ kind: 'result', call: id, result }, request.kind === 'get' ? [(result as Uint8Array<ArrayBuffer>).buffer] : [])
    } catch (error) {
      this.#post({ kind: 'failure', call: id, failure: failureOf(error) })
    } finally {
      this.#calls.delete(id)
    }
  }

  async #do(id: number, request: Request, call: Call): Promise<ResultOf[Request['kind']]> {
    const options = { urgency: call.urgency, signal: call.controller.signal }
    switch (request.kind) {
      case 'openStore':
        return await this.#openStore(request.store, request.url)
      case 'closeStore':
        return await this.#closeStore(request.store)
      case 'hold':
        return this.#keep(await this.#store(request.store).hold(request.columns, request.root, request.owner))
      case 'lend':
        return this.#keep(await this.#snapshot(request.handle).lend(request.owner))
      case 'get': {
        const { store, objectKey, sizeMax } = request
        // A copy that can be transferred: others may have been given the same bytes.
        return await copyOfLong(await this.#store(store).get(request.id, objectKey, { ...options, sizeMax }))
      }
      case 'withSealed': {
        const { store, ref, reach } = request
        await this.#store(store).withSealed(ref, sealed => this.#lend(id, sealed, call), { ...options, ...reach })
        return undefined
      }
      case 'prime':
        return await this.#store(request.store).prime(request.id, request.sealed, request.tiers)
      case 'openLine':
        this.#lines.set(request.line, this.#engine.serveLine(request.end))
        return undefined
      case 'closeLine':
        this.#lines.get(request.line)?.close()
        this.#lines.delete(request.line)
        return undefined
      case 'clear':
        return await this.#engine.clear(request.tiers)
      case 'figures':
        return await this.#engine.figures()
      case 'describe':
        return await this.#engine.describe()
      case 'settled':
        await this.#engine.settled()
        return undefined
      case 'close':
        return await this.#close()
    }
  }

  async #openStore(number: number, url: string): Promise<ResultOf['openStore']> {
    const objects = await openObjectStore(url)
    const engine = await this.#engine.openStore(objects)
    this.#stores.set(number, { objects, engine })
    const { memory, slotBytes } = engine.slab
    return { concurrency: engine.concurrency, slab: { memory, slotBytes } }
  }

  #store(number: number): EngineStore {
    const store = this.#stores.get(number)
    if (store === undefined) throw new ThawError('CLOSED', 'the store is closed')
    return store.engine
  }

  async #closeStore(number: number): Promise<undefined> {
    const store = this.#stores.get(number)
    this.#stores.delete(number)
    await store?.engine.close()
    await store?.objects.close()
  }

  #keep(held: HeldSnapshot): ResultOf['hold'] {
    const { handle, numbers } = held
    this.#snapshots.set(handle, held)
    return { handle, numbers }
  }

  #snapshot(handle: number): HeldSnapshot {
    const snapshot = this.#snapshots.get(handle)
    if (snapshot === undefined) throw new ThawError('CLOSED', 'the snapshot is closed')
    return snapshot
  }

  /** Lends bytes to the caller's thread, which says whether they are good. */
  #lend(id: number, { slot, bytes, tier }: SealedBytes, call: Call): Promise<void> {
    call.verdict = Promise.withResolvers()
    this.#post({ kind: 'lent', call: id, lent: { slot, tier, sizeBytes: bytes.length } })
    return call.verdict.promise
  }

  async #close(): Promise<undefined> {
    await this.#engine.close()
    for (const { objects } of this.#stores.values()) await objects.close()
  }

  #post(message: FromHost, transfer: ArrayBuffer[] = []): void {
    this.#port.postMessage(message, transfer)
  }
}
