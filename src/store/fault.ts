/**
 * A store that misbehaves on purpose, for tests. Calls are numbered from 1 in the order they are made; a plan decides for each what goes wrong, so a test can
 * break the n-th call for n = 1, 2, 3… until a run comes through untouched, or break calls at random from a seed.
 *
 * The fault model. A store may
 * - fail a call before it did anything, or after it took effect (the answer was lost): UNAVAILABLE, or the error given;
 * - truncate what a read returns, or flip one bit of it, without saying so (`get`, `getInto`);
 * - answer late;
 * - not answer at all, until the call is aborted or the store closed.
 *
 * It never stores a part of an object, mixes two, forgets what it synced, or lists what is not there: the contract rules these out, and the tests of each
 * store show that it keeps to it. `truncate` and `flip` on other calls fail them instead, before. A listing fails at its start, or (after) behind its
 * first item.
 */
import { ThawError } from '../errors.ts'
import type { CallOptions, GetOptions, ListedObject, ObjectHead, ObjectStore, PutOptions } from '../store.ts'
import { type Clock, systemClock } from '../util/clock.ts'
import { raceSignal } from '../util/deadline.ts'
import { randomFrom } from '../util/random.ts'
import { StoreWrapper } from './wrapper.ts'

export type Fault =
  | { readonly kind: 'fail'; readonly when: 'before' | 'after'; readonly error?: Error | undefined }
  | { readonly kind: 'truncate' }
  | { readonly kind: 'flip' }
  | { readonly kind: 'delay'; readonly delayMs: number }
  | { readonly kind: 'hang' }

export type StoreMethod = 'get' | 'getInto' | 'head' | 'put' | 'putIfAbsent' | 'delete' | 'list' | 'listFolders' | 'sync'

export interface FaultCall {
  /** From 1, over all methods. */
  readonly number: number
  readonly method: StoreMethod
  /** Key or prefix; empty for `sync`. */
  readonly key: string
}

/** What goes wrong with a call; undefined: nothing. */
export type FaultPlan = (call: FaultCall) => Fault | undefined

export interface FaultOptions {
  readonly plan: FaultPlan
  /** Chooses lengths and bits; default 1. */
  readonly seed?: number | undefined
  readonly clock?: Clock | undefined
}

export interface FaultStore extends ObjectStore {
  /** Calls made so far. */
  readonly callCount: number
  /** Calls that something went wrong with. */
  readonly faultCount: number
}

/** Wraps a store; closing the wrapper closes it. */
export function faultStore(inner: ObjectStore, options: FaultOptions): FaultStore {
  return new FaultyStore(inner, options)
}

/** One fault, at the n-th call (from 1). */
export function faultAt(number: number, fault: Fault): FaultPlan {
  return call => (call.number === number ? fault : undefined)
}

/** A share `rate` (0 to 1) of all calls, each with one of the faults, the same ones for the same seed and order of calls. */
export function randomFaults(seed: number, rate: number, faults: readonly Fault[]): FaultPlan {
  const random = randomFrom(seed)
  return () => (random() < rate ? faults[Math.floor(random() * faults.length)] : undefined)
}

class FaultyStore extends StoreWrapper implements FaultStore {
  readonly #plan: FaultPlan
  readonly #random: () => number
  readonly #clock: Clock
  #callCount = 0
  #faultCount = 0

  constructor(inner: ObjectStore, { plan, seed = 1, clock = systemClock }: FaultOptions) {
    super(inner)
    this.#plan = plan
    this.#random = randomFrom(seed)
    this.#clock = clock
  }

  get callCount(): number {
    return this.#callCount
  }

  get faultCount(): number {
    return this.#faultCount
  }

  get(key: string, options: GetOptions): Promise<Uint8Array> {
    return this.#call('get', key, options, async damage => {
      const body = await this.inner.get(key, options)
      return body.subarray(0, damage(body))
    })
  }

  getInto(key: string, target: Uint8Array, options: CallOptions = {}): Promise<number> {
    return this.#call('getInto', key, options, async damage => damage(target.subarray(0, await this.inner.getInto(key, target, options))))
  }

  head(key: string, options: CallOptions = {}): Promise<ObjectHead | undefined> {
    return this.#call('head', key, options, () => this.inner.head(key, options))
  }

  put(key: string, body: Uint8Array, options: PutOptions = {}): Promise<void> {
    return this.#call('put', key, options, () => this.inner.put(key, body, options))
  }

  putIfAbsent(key: string, body: Uint8Array, options: CallOptions = {}): Promise<boolean> {
    return this.#call('putIfAbsent', key, options, () => this.inner.putIfAbsent(key, body, options))
  }

  delete(key: string, options: CallOptions = {}): Promise<void> {
    return this.#call('delete', key, options, () => this.inner.delete(key, options))
  }

  list(prefix: string, options: CallOptions = {}): AsyncIterable<ListedObject> {
    return this.#list('list', prefix, options, () => this.inner.list(prefix, options))
  }

  listFolders(prefix: string, options: CallOptions = {}): AsyncIterable<string> {
    return this.#list('listFolders', prefix, options, () => this.inner.listFolders(prefix, options))
  }

  sync(options: CallOptions = {}): Promise<void> {
    return this.#call('sync', '', options, () => this.inner.sync(options))
  }

  #call<T>(method: StoreMethod, key: string, { signal }: CallOptions, call: (damage: Damage) => Promise<T>): Promise<T> {
    return this.life.run(signal, async () => {
      const fault = this.#next(method, key)
      await this.#before(fault, method, signal)
      const result = await call(body => this.#damage(fault, body))
      if (fault?.kind === 'fail') throw errorOf(fault, method)
      return result
    })
  }

  async *#list<T>(method: StoreMethod, key: string, { signal }: CallOptions, list: () => AsyncIterable<T>): AsyncGenerator<T> {
    this.life.check(signal)
    const fault = this.#next(method, key)
    await this.#before(fault, method, signal)
    for await (const item of list()) {
      yield item
      this.life.check(signal)
      if (fault?.kind === 'fail') break
    }
    if (fault?.kind === 'fail') throw errorOf(fault, method)
  }

  #next(method: StoreMethod, key: string): Fault | undefined {
    const fault = this.#plan({ number: ++this.#callCount, method, key })
    if (fault !== undefined) this.#faultCount++
    return fault
  }

  async #before(fault: Fault | undefined, method: StoreMethod, signal: AbortSignal | undefined): Promise<void> {
    const damages = fault?.kind === 'truncate' || fault?.kind === 'flip'
    if (damages && method !== 'get' && method !== 'getInto') throw errorOf(fault, method)
    if (fault?.kind === 'fail' && fault.when === 'before') throw errorOf(fault, method)
    if (fault?.kind === 'delay') await this.#clock.sleep(fault.delayMs, signal)
    if (fault?.kind === 'hang') await raceSignal(raceSignal(new Promise<never>(() => undefined), this.life.signal), signal)
    this.life.check(signal)
  }

  /** Damages a body in place and returns its new length. */
  #damage(fault: Fault | undefined, body: Uint8Array): number {
    if (fault?.kind === 'flip' && body.length > 0) {
      const index = Math.floor(this.#random() * body.length)
      body[index] = (body[index] ?? 0) ^ (1 << Math.floor(this.#random() * 8))
    }
    return fault?.kind === 'truncate' ? Math.floor(this.#random() * body.length) : body.length
  }
}

type Damage = (body: Uint8Array) => number

function errorOf(fault: Fault, method: StoreMethod): Error {
  const given = fault.kind === 'fail' ? fault.error : undefined
  return given ?? new ThawError('UNAVAILABLE', `fault on purpose: ${fault.kind} ${method}`)
}
