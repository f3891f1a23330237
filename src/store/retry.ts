/**
 * A store that asks again by the rule of util/retry.ts. Every method may be repeated safely: a repeated
 * put-if-absent that had succeeded finds equal bytes, which is success; a listing goes on behind the
 * last item it gave. An abort ends the waiting; nothing is tried after it.
 */
import type { CallOptions, GetOptions, ListedObject, ObjectHead, ObjectStore, PutOptions } from '../store.ts'
import { Retries, type RetryBounds, retry } from '../util/retry.ts'
import { compareKeys } from './object-key.ts'
import { StoreWrapper } from './wrapper.ts'

/** Bounds of one call; by default 6 attempts within 60 s. A listing counts anew whenever it got on. */
export type RetryOptions = RetryBounds

const ATTEMPTS_MAX = 6
/** So that a store which swallows everything is an error after two attempts of 30 s and not after six. */
const WITHIN_MS = 60_000

/** Wraps a store; closing the wrapper closes it. */
export function retryStore(inner: ObjectStore, options: RetryOptions = {}): ObjectStore {
  return new RetryStore(inner, options)
}

class RetryStore extends StoreWrapper implements ObjectStore {
  readonly #bounds: RetryBounds

  constructor(inner: ObjectStore, { attemptsMax = ATTEMPTS_MAX, withinMs = WITHIN_MS, backoff, clock }: RetryOptions) {
    super(inner)
    this.#bounds = { attemptsMax, withinMs, backoff, clock }
  }

  get(key: string, options: GetOptions): Promise<Uint8Array> {
    return this.#retry(options, () => this.inner.get(key, options))
  }

  getInto(key: string, target: Uint8Array, options: CallOptions = {}): Promise<number> {
    return this.#retry(options, () => this.inner.getInto(key, target, options))
  }

  head(key: string, options: CallOptions = {}): Promise<ObjectHead | undefined> {
    return this.#retry(options, () => this.inner.head(key, options))
  }

  put(key: string, body: Uint8Array, options: PutOptions = {}): Promise<void> {
    return this.#retry(options, () => this.inner.put(key, body, options))
  }

  putIfAbsent(key: string, body: Uint8Array, options: CallOptions = {}): Promise<boolean> {
    return this.#retry(options, () => this.inner.putIfAbsent(key, body, options))
  }

  delete(key: string, options: CallOptions = {}): Promise<void> {
    return this.#retry(options, () => this.inner.delete(key, options))
  }

  list(prefix: string, options: CallOptions = {}): AsyncIterable<ListedObject> {
    return this.#relist(
      options,
      () => this.inner.list(prefix, options),
      item => item.key,
    )
  }

  listFolders(prefix: string, options: CallOptions = {}): AsyncIterable<string> {
    return this.#relist(
      options,
      () => this.inner.listFolders(prefix, options),
      name => `${name}/`,
    )
  }

  sync(options: CallOptions = {}): Promise<void> {
    return this.#retry(options, () => this.inner.sync(options))
  }

  #retry<T>({ signal }: CallOptions, call: () => Promise<T>): Promise<T> {
    return this.life.run(signal, () => retry(call, this.#bounds, signal, this.life.signal))
  }

  /** Lists again after a failure, and leaves out what was given before. */
  async *#relist<T>({ signal }: CallOptions, list: () => AsyncIterable<T>, orderOf: (item: T) => string): AsyncGenerator<T> {
    const retries = new Retries(this.#bounds)
    let last: string | undefined
    for (;;) {
      try {
        for await (const item of list()) {
          const order = orderOf(item)
          if (last !== undefined && compareKeys(order, last) <= 0) continue
          last = order
          retries.reset()
          yield item
        }
        return
      } catch (error) {
        await retries.waitAfter(error, this.life.signal, signal)
      }
    }
  }
}
