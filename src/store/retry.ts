/**
 * A store that tries again what failed as UNAVAILABLE, and nothing else: every method may be repeated safely (a repeated put-if-absent that had
 * succeeded finds equal bytes, which is success; a listing goes on behind the last item it gave).
 *
 * Waits grow exponentially and are random from zero up ("full jitter": Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015), so that
 * many clients of a store that comes back do not come back together. An abort ends the waiting; nothing is tried after it.
 */
import { isThawError } from '../errors.ts'
import type { CallOptions, GetOptions, ListedObject, ObjectHead, ObjectStore, PutOptions } from '../store.ts'
import { type Clock, systemClock } from '../util/clock.ts'
import { raceSignal } from '../util/deadline.ts'
import { compareKeys } from './object-key.ts'
import { StoreWrapper } from './wrapper.ts'

export interface RetryOptions {
  /** Tries of one call, the first included; default 6. A listing counts anew whenever it got on. */
  readonly attemptsMax?: number | undefined
  /** Upper bound of the first wait, doubled for each one after; default 100 ms. */
  readonly waitFirstMs?: number | undefined
  /** Upper bound of every wait; default 5 s. */
  readonly waitMaxMs?: number | undefined
  readonly clock?: Clock | undefined
}

/** Wraps a store; closing the wrapper closes it. */
export function retryStore(inner: ObjectStore, options: RetryOptions = {}): ObjectStore {
  return new RetryStore(inner, options)
}

class RetryStore extends StoreWrapper implements ObjectStore {
  readonly #attemptsMax: number
  readonly #waitFirstMs: number
  readonly #waitMaxMs: number
  readonly #clock: Clock

  constructor(inner: ObjectStore, { attemptsMax = 6, waitFirstMs = 100, waitMaxMs = 5_000, clock = systemClock }: RetryOptions) {
    super(inner)
    this.#attemptsMax = attemptsMax
    this.#waitFirstMs = waitFirstMs
    this.#waitMaxMs = waitMaxMs
    this.#clock = clock
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
    return this.life.run(signal, async () => {
      for (let attempt = 1; ; attempt++) {
        try {
          return await call()
        } catch (error) {
          await this.#waitAfter(error, attempt, signal)
        }
      }
    })
  }

  /** Lists again after a failure, and leaves out what was given before. */
  async *#relist<T>({ signal }: CallOptions, list: () => AsyncIterable<T>, orderOf: (item: T) => string): AsyncGenerator<T> {
    let last: string | undefined
    for (let attempt = 1; ; attempt++) {
      try {
        for await (const item of list()) {
          const order = orderOf(item)
          if (last !== undefined && compareKeys(order, last) <= 0) continue
          last = order
          attempt = 1
          yield item
        }
        return
      } catch (error) {
        await this.#waitAfter(error, attempt, signal)
      }
    }
  }

  /** Waits before the next try, or throws the error if there is none. */
  async #waitAfter(error: unknown, attempt: number, signal: AbortSignal | undefined): Promise<void> {
    this.life.check(signal)
    if (!isThawError(error, 'UNAVAILABLE') || attempt >= this.#attemptsMax) throw error
    const boundMs = Math.min(this.#waitMaxMs, this.#waitFirstMs * 2 ** (attempt - 1))
    await raceSignal(this.#clock.sleep(this.#clock.random() * boundMs, signal), this.life.signal)
    this.life.check(signal)
  }
}
