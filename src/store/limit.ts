/**
 * A store that keeps a bounded number of calls, and of bytes that they may move, under way at the one it wraps; the others wait their turn. A fleet that starts from
 * empty caches would otherwise send its origin hundreds of times the usual load.
 *
 * A call weighs what it may move: the body of a put, the target or the largest size of a get. A listing takes a place for each step only, so that its
 * consumer may call the store meanwhile.
 */
import type { CallOptions, GetOptions, ListedObject, ObjectHead, ObjectStore, PutOptions } from '../store.ts'
import { Turnstile } from './turnstile.ts'
import { StoreWrapper } from './wrapper.ts'

const WAITING_MAX = 65_536

export interface LimitOptions {
  /** Calls under way at a time; default: the wrapped store's `concurrency`. */
  readonly callsMax?: number | undefined
  /** Bytes that the calls under way may move; default 256 MiB. A call that may move more goes alone. */
  readonly bytesMax?: number | undefined
  /** Calls that may wait; default 65,536. Those beyond are UNAVAILABLE. */
  readonly waitingMax?: number | undefined
}

/** Wraps a store; closing the wrapper closes it, and calls that wait reject with CLOSED. */
export function limitStore(inner: ObjectStore, options: LimitOptions = {}): ObjectStore {
  return new LimitStore(inner, options)
}

class LimitStore extends StoreWrapper implements ObjectStore {
  readonly #turnstile: Turnstile

  constructor(inner: ObjectStore, { callsMax = inner.concurrency, bytesMax = 256 * 2 ** 20, waitingMax = WAITING_MAX }: LimitOptions) {
    super(inner)
    this.#turnstile = new Turnstile({ countMax: callsMax, weightMax: bytesMax, waitingMax })
  }

  get(key: string, options: GetOptions): Promise<Uint8Array> {
    return this.#inTurn(options.sizeMax, options, () => this.inner.get(key, options))
  }

  getInto(key: string, target: Uint8Array, options: CallOptions = {}): Promise<number> {
    return this.#inTurn(target.length, options, () => this.inner.getInto(key, target, options))
  }

  head(key: string, options: CallOptions = {}): Promise<ObjectHead | undefined> {
    return this.#inTurn(0, options, () => this.inner.head(key, options))
  }

  put(key: string, body: Uint8Array, options: PutOptions = {}): Promise<void> {
    return this.#inTurn(body.length, options, () => this.inner.put(key, body, options))
  }

  putIfAbsent(key: string, body: Uint8Array, options: CallOptions = {}): Promise<boolean> {
    return this.#inTurn(body.length, options, () => this.inner.putIfAbsent(key, body, options))
  }

  delete(key: string, options: CallOptions = {}): Promise<void> {
    return this.#inTurn(0, options, () => this.inner.delete(key, options))
  }

  list(prefix: string, options: CallOptions = {}): AsyncIterable<ListedObject> {
    return this.#stepByStep(options, () => this.inner.list(prefix, options))
  }

  listFolders(prefix: string, options: CallOptions = {}): AsyncIterable<string> {
    return this.#stepByStep(options, () => this.inner.listFolders(prefix, options))
  }

  sync(options: CallOptions = {}): Promise<void> {
    return this.#inTurn(0, options, () => this.inner.sync(options))
  }

  #inTurn<T>(bytes: number, { signal }: CallOptions, call: () => Promise<T>): Promise<T> {
    return this.life.run(signal, async () => {
      await this.#turnstile.enter(bytes, { signals: [signal, this.life.signal] })
      try {
        return await call()
      } finally {
        this.#turnstile.leave(bytes)
      }
    })
  }

  async *#stepByStep<T>(options: CallOptions, list: () => AsyncIterable<T>): AsyncGenerator<T> {
    const iterator = list()[Symbol.asyncIterator]()
    try {
      for (;;) {
        const step = await this.#inTurn(0, options, () => iterator.next())
        if (step.done === true) return
        yield step.value
      }
    } finally {
      await iterator.return?.()
    }
  }
}
