/**
 * What all wrappers of a store share: they are the store they wrap in name and nature, and end with it. Each adds its behaviour to the calls.
 */
import type { ObjectStore } from '../store.ts'
import { Lifetime } from '../util/lifetime.ts'

export abstract class StoreWrapper {
  protected readonly inner: ObjectStore
  protected readonly life: Lifetime

  constructor(inner: ObjectStore) {
    this.inner = inner
    this.life = new Lifetime(inner.url)
  }

  get url(): string {
    return this.inner.url
  }

  get headGivesSha256(): boolean {
    return this.inner.headGivesSha256
  }

  get concurrency(): number {
    return this.inner.concurrency
  }

  async close(): Promise<void> {
    const ended = this.life.close()
    await this.inner.close()
    await ended
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}
