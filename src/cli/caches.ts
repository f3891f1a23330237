/**
 * The caches of one run, and the ways in which its figures are seen. Commands that move whole snapshots look at each chunk once, so they have no memory tier; those that serve
 * guests have one, and an engine of its own thread, so that this thread holds up no guest.
 *
 * Nothing here fails the work. A disk cache that cannot be opened, a port that cannot be had or a state folder that cannot be used are a word on standard error;
 * only settings that cannot be are an error.
 */
import {
  type Cache,
  type CacheOptions,
  createCache,
  diskCacheBound,
  isThawError,
  metricsText,
  type Restore,
  type SnapshotStore,
  serveMetrics,
} from '../index.ts'
import { type Answers, announce } from './announce.ts'
import type { CacheSettings } from './cache-settings.ts'
import { commitAnswer, commitPath } from './commit-answer.ts'
import { formatBytes, formatCount } from './format.ts'
import type { Invocation } from './invocation.ts'
import { stateFolder } from './state-folder.ts'

/** A command has nothing else to do meanwhile, so its reads need no thread of their own. */
const BULK = { memoryBytes: 0, thread: 'main' } as const

/** Of commands that serve guests. */
export interface Serving {
  readonly spinMicroseconds: number | undefined
}

export class Caches implements AsyncDisposable {
  readonly cache: Cache
  readonly hasTiers: boolean
  readonly hasL2: boolean
  readonly #invocation: Invocation
  readonly #stateFolder: string
  /** What shows figures; ends before the cache. */
  readonly #shown: (() => Promise<void>)[] = []

  private constructor(cache: Cache, invocation: Invocation, { disk, l2, stateDir }: CacheSettings) {
    this.cache = cache
    this.hasTiers = disk !== undefined || l2 !== undefined
    this.hasL2 = l2 !== undefined
    this.#invocation = invocation
    this.#stateFolder = stateFolder(stateDir)
  }

  /** @param serving of a command that serves guests */
  static async open(invocation: Invocation, settings: CacheSettings, serving?: Serving): Promise<Caches> {
    const base = serving === undefined ? BULK : { memoryBytes: settings.memoryBytes, pagers: serving }
    const caches = new Caches(await openTiers(invocation, settings, base), invocation, settings)
    if (settings.disk !== undefined) await caches.#tellBound(settings.disk, serving !== undefined)
    if (settings.metrics !== undefined) await caches.#serveMetrics(settings.metrics)
    return caches
  }

  /** A smaller size than the folder's changes nothing: who serves with it for months should know. */
  async #tellBound({ path, sizeBytes }: NonNullable<CacheSettings['disk']>, serves: boolean): Promise<void> {
    const bound = sizeBytes === undefined ? undefined : await diskCacheBound(path).catch(() => undefined)
    if (sizeBytes === undefined || bound === undefined || bound <= sizeBytes) return
    const { output } = this.#invocation
    const text = `the disk cache may hold ${formatBytes(bound)}, not ${formatBytes(sizeBytes)}: only \`thaw cache resize\` lowers that`
    if (serves) output.warn(text)
    else output.detail(text)
  }

  async #serveMetrics(address: { readonly host: string; readonly port: number }): Promise<void> {
    const { output } = this.#invocation
    try {
      const server = await serveMetrics(this.cache, address)
      this.#shown.push(() => server.close())
      output.detail(`figures at ${server.url}`)
    } catch (error) {
      if (!isThawError(error)) throw error
      output.warn(error.message)
    }
  }

  /** Lets `thaw stats` find this run. Happens beside the work, which does not wait for it. */
  announce(store: SnapshotStore): void {
    const { output } = this.#invocation
    void this.#announce(store, [], reason => output.detail(`not shown by \`thaw stats\`: ${reason}`))
  }

  /** Lets `thaw stats`, `thaw ps` and `thaw commit` find this run and its restores: they can when this resolves. */
  async announceRestores(store: SnapshotStore, restores: readonly Restore[]): Promise<void> {
    const { output } = this.#invocation
    await this.#announce(store, restores, reason => output.warn(`\`thaw ps\` and \`thaw commit\` will not find this restore: ${reason}`))
  }

  async #announce(store: SnapshotStore, restores: readonly Restore[], onFailed: (reason: string) => void): Promise<void> {
    const announced = announce(this.#stateFolder, this.#answers(store, restores)).catch((error: unknown) => {
      onFailed(error instanceof Error ? error.message : String(error))
      return undefined
    })
    this.#shown.push(async () => await (await announced)?.[Symbol.asyncDispose]())
    await announced
  }

  #answers(store: SnapshotStore, restores: readonly Restore[]): Answers {
    const { cache } = this
    const { command } = this.#invocation
    const startedAt = new Date(Date.now() - 1000 * process.uptime()).toISOString()
    const document = async (): Promise<object> => ({
      ...{ schema: 1, pid: process.pid, command, startedAt, store: store.url },
      figures: await cache.stats(),
      restores: restores.map(restore => restore.figures()),
    })
    return {
      'GET /stats': async () => JSON.stringify(await document()),
      'GET /metrics': () => metricsText(cache),
      ...Object.fromEntries(restores.map(restore => [`POST ${commitPath(restore.id)}`, commitAnswer(restore)])),
    }
  }

  /** A cache that failed cost nobody but its hits, and should be seen to all the same. */
  async #tellFailures(): Promise<void> {
    const figures = await this.cache.stats()
    const failed = (['disk', 'l2'] as const).filter(tier => (figures[tier]?.errors ?? 0) > 0)
    const descriptions = failed.length === 0 ? [] : await this.cache.describe()
    for (const tier of failed) {
      const errors = figures[tier]?.errors ?? 0
      const { remark } = descriptions.find(description => description.tier === tier) ?? {}
      this.#invocation.output.warn(`${NAMES[tier]} failed ${formatCount(errors, 'time')}${remark === undefined ? '' : `: ${remark}`}`)
    }
  }

  /** Waits for the copies to caches that are under way, unless the run is interrupted. */
  async [Symbol.asyncDispose](): Promise<void> {
    const { signal } = this.#invocation
    const interrupted = Promise.withResolvers<void>()
    const onAbort = (): void => interrupted.resolve()
    signal.addEventListener('abort', onAbort)
    if (!signal.aborted) await Promise.race([this.cache.settled(), interrupted.promise])
    signal.removeEventListener('abort', onAbort)
    for (const end of this.#shown) await end()
    if (!signal.aborted) await this.#tellFailures()
    await this.cache.close()
  }
}

const NAMES: Readonly<Record<'disk' | 'l2', string>> = { disk: 'the disk cache', l2: 'L2' }

/** All tiers that are set, without the disk if its folder cannot be had. */
async function openTiers({ output }: Invocation, { disk, l2 }: CacheSettings, base: CacheOptions): Promise<Cache> {
  try {
    return await createCache({ ...base, disk, l2 })
  } catch (error) {
    if (!isThawError(error) || error.tier !== 'disk') throw error
    output.warn(`without a disk cache: ${error.message}`)
    return await createCache({ ...base, l2 })
  }
}
