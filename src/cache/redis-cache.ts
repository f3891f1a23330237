/**
 * The distributed cache as the contract has it (src/cache.ts), over a layout: checks, bounds on what is being written, and words for people. What is read is
 * not verified here, like in every cache.
 */
import type { Allocate, CacheDescription, SealedCache } from '../cache.ts'
import { isThawError } from '../errors.ts'
import { ID } from '../names.ts'
import type { CallOptions } from '../store.ts'
import type { Lifetime } from '../util/lifetime.ts'
import type { NodeReport } from './redis-admin.ts'
import type { RedisLayout } from './redis-layout.ts'

/** Puts under way, until ioredis has no more use for their bytes. Beyond either bound a put is not kept. */
const PUTS_MAX = 256
const PUT_BYTES_MAX = 32 * 2 ** 20

export class RedisCache implements SealedCache {
  readonly tier = 'l2'
  readonly name: string
  readonly #layout: RedisLayout
  readonly #life: Lifetime
  #puts = 0
  #putBytes = 0

  constructor(layout: RedisLayout, life: Lifetime) {
    this.name = layout.targets.map(({ name }) => name).join(',')
    this.#layout = layout
    this.#life = life
  }

  get(id: string, allocate: Allocate, { signal }: CallOptions = {}): Promise<Uint8Array | undefined> {
    return this.#run(id, signal, async () => {
      const found = await this.#layout.get(id, signal)
      if (found === undefined) return undefined
      this.#life.check(signal)
      const bytes = allocate(found.sizeBytes)
      found.copyTo(bytes)
      return bytes.length === found.sizeBytes ? bytes : bytes.subarray(0, found.sizeBytes)
    })
  }

  put(id: string, sealed: Uint8Array, { signal }: CallOptions = {}): Promise<boolean> {
    return this.#run(id, signal, async () => {
      if (this.#puts === PUTS_MAX || this.#putBytes + sealed.length > PUT_BYTES_MAX) return false
      const sizeBytes = sealed.length
      this.#puts++
      this.#putBytes += sizeBytes
      const release = (): void => {
        this.#puts--
        this.#putBytes -= sizeBytes
      }
      try {
        return await this.#layout.put(id, sealed, signal, release)
      } catch (error) {
        if (signal?.aborted || !isThawError(error)) throw error
        return false
      }
    })
  }

  evict(id: string, { signal }: CallOptions = {}): Promise<void> {
    return this.#run(id, signal, () => this.#layout.evict(id, signal))
  }

  clear({ signal }: CallOptions = {}): Promise<number> {
    return this.#life.run(signal, async () => {
      const counts = await Promise.all(this.#layout.targets.map(target => target.clear(signal)))
      return this.#valuesOf(sum(counts))
    })
  }

  describe({ signal }: CallOptions = {}): Promise<CacheDescription> {
    return this.#life.run(signal, async () => {
      const reports = (await Promise.all(this.#layout.targets.map(target => target.report(signal)))).flat()
      const figures = reports.flatMap(report => report.figures ?? [])
      const down = reports.length - figures.length
      const isLimited = figures.length > 0 && figures.every(({ maxBytes }) => maxBytes > 0)
      return {
        tier: this.tier,
        name: this.name,
        // Without erasure coding every node that is left serves its share.
        state: figures.length > 0 && (this.#layout.nodesToSpare === 0 || down <= this.#layout.nodesToSpare) ? 'up' : 'down',
        remark: reports.map(remarkOn).find(remark => remark !== undefined),
        entries: figures.length === 0 ? undefined : this.#valuesOf(sum(figures.map(({ keys }) => keys))),
        bytes: figures.length === 0 ? undefined : sum(figures.map(({ usedBytes }) => usedBytes)),
        bytesMax: isLimited ? sum(figures.map(({ maxBytes }) => maxBytes)) : undefined,
        details: Object.fromEntries(reports.map(report => [report.name, detailOf(report)])),
      }
    })
  }

  async close(): Promise<void> {
    const ended = this.#life.close()
    await Promise.all(this.#layout.targets.map(target => target.close()))
    await ended
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #run<T>(id: string, signal: AbortSignal | undefined, call: () => Promise<T>): Promise<T> {
    if (!ID.test(id)) throw new RangeError(`${JSON.stringify(id)} is no id: 64 hex digits`)
    return await this.#life.run(signal, call)
  }

  /** How many values so many keys are. Stripes that were lost make it a little less. */
  #valuesOf(keys: number): number {
    return Math.round(keys / this.#layout.keysPerValue)
  }
}

function remarkOn({ name, down, figures }: NodeReport): string | undefined {
  if (down !== undefined) return `${down.code}: ${down.message}`
  if (figures?.maxBytes === 0) return `${name} has no memory limit: set maxmemory, and maxmemory-policy allkeys-lru`
  if (figures?.policy === 'noeviction') return `${name} keeps nothing new once it is full: set maxmemory-policy allkeys-lru`
  return undefined
}

function detailOf({ down, figures }: NodeReport): string {
  if (figures === undefined) return `down: ${down?.code ?? 'UNAVAILABLE'}`
  const { usedBytes, maxBytes, policy } = figures
  return `up, used_memory ${usedBytes}, maxmemory ${maxBytes}, maxmemory-policy ${policy}`
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0)
}
