/**
 * The guard: a small process that kills our VMMs and takes off our mounts when we are gone, however that came: kill -9, a crash, no memory. Without a pager Firecracker
 * hangs for ever, and a mount whose server is gone stays in the tree.
 *
 * One a process, started when first needed and shared. It learns of our end by a socket that the kernel closes then, so nothing on this side has to run for it to act: neither a
 * busy main thread nor a stopped event loop delays it. What it watches it was given as pidfds, so it cannot kill another process that got the number.
 *
 * A guard that ends is noticed at once, and told of; the next is started and given everything again, with descriptors that were kept for it. In the 0.1 s between, as long as none can be
 * started, and if guard and owner are killed together, nobody watches. Where the owner dumps a core, the socket is closed when the dump is written.
 *
 * An owner that ends without `close` is gone as well, by `process.exit` too: what is meant to survive is released first.
 */
import type { GuardEvent, GuardKeeper } from './guard/keeper.ts'
import { mountIdsAt } from './guard/mounts.ts'
import type { Clock } from './util/clock.ts'
import { Lifetime } from './util/lifetime.ts'
import { loadNative } from './util/native.ts'

export type { GuardEvent } from './guard/keeper.ts'

/** Something that ends when this process does. */
export interface Watched {
  /** From now on it does not. Idempotent. */
  release(): void
}

export interface GuardOptions {
  /** Told until `close`. Must not throw. */
  readonly onEvent?: ((event: GuardEvent) => void) | undefined
  readonly clock?: Clock | undefined
}

/** Everything that is watched is so from when the promise resolves; or, while there is no guard (`lost`), from when there is one again. */
export interface Guard extends AsyncDisposable {
  /**
   * From now on this process dies when we do; one that has ended already is nothing to watch, and no error. Resolves when the guard has it.
   * @param pidfd stays the caller's. @param pid for messages only
   * @throws DENIED if this process may not kill that one; UNAVAILABLE for too many; CLOSED; RangeError for a descriptor that is not open
   */
  watchProcess(pidfd: number, pid: number): Promise<Watched>
  /**
   * From now on the guard has this descriptor open too, until the processes that it watches are killed: what would go wrong for them when its last holder is gone does not.
   * @param fd stays the caller's. @throws UNAVAILABLE for too many; CLOSED; RangeError for a descriptor that is not open
   */
  holdOpen(fd: number): Promise<Watched>
  /**
   * From now on, what is mounted at this folder later than this call is taken off when we are gone. To be called before mounting, then: a mount that is there already may be
   * somebody else's, and stays. Resolves when the guard has it. Release it when the mount is gone.
   * @param path absolute, without links. @throws UNAVAILABLE for too many; CLOSED
   */
  watchMount(path: string): Promise<Watched>
  /** Releases what was watched through this object. Nothing is killed. The process ends with the last of those who share it. Idempotent. */
  close(): Promise<void>
}

interface Shared {
  readonly keeper: Promise<GuardKeeper>
  holders: number
}

/** Of all in this thread. */
let shared: Shared | undefined

/** @throws UNSUPPORTED without Linux; UNAVAILABLE if it cannot be started */
export async function startGuard({ onEvent, clock }: GuardOptions = {}): Promise<Guard> {
  shared ??= { keeper: startKeeper(clock), holders: 0 }
  const own = shared
  own.holders++
  try {
    return new SharedGuard(await own.keeper, onEvent, () => leave(own))
  } catch (error) {
    abandon(own)
    throw error
  }
}

async function startKeeper(clock: Clock | undefined): Promise<GuardKeeper> {
  const [native, { GuardKeeper }] = await Promise.all([loadNative('the guard'), import('./guard/keeper.ts')])
  return await GuardKeeper.start(native, clock)
}

/** The next who asks for a guard starts one. */
function abandon(own: Shared): void {
  if (shared === own) shared = undefined
}

async function leave(own: Shared): Promise<void> {
  own.holders--
  if (own.holders > 0) return
  abandon(own)
  await (await own.keeper).close()
}

class SharedGuard implements Guard {
  readonly #keeper: GuardKeeper
  readonly #onEvent: (event: GuardEvent) => void
  readonly #leave: () => Promise<void>
  readonly #life = new Lifetime('the guard')
  readonly #watched = new Set<Watched>()
  #closed: Promise<void> | undefined

  constructor(keeper: GuardKeeper, onEvent: GuardOptions['onEvent'], leave: () => Promise<void>) {
    this.#keeper = keeper
    // A function of its own, so that each hears once, however many gave the same.
    this.#onEvent = event => onEvent?.(event)
    keeper.listeners.add(this.#onEvent)
    this.#leave = leave
  }

  watchProcess(pidfd: number, pid: number): Promise<Watched> {
    return this.#watch(() => this.#keeper.watch({ kind: 'process', pid }, pidfd))
  }

  holdOpen(fd: number): Promise<Watched> {
    return this.#watch(() => this.#keeper.watch({ kind: 'descriptor' }, fd))
  }

  watchMount(path: string): Promise<Watched> {
    return this.#watch(() => this.#keeper.watch({ kind: 'mount', path, present: mountIdsAt(path) }))
  }

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #watch(begin: () => Promise<() => void>): Promise<Watched> {
    return this.#life.run(undefined, async () => {
      const end = await begin()
      const watched: Watched = { release: () => this.#watched.delete(watched) && end() }
      this.#watched.add(watched)
      return watched
    })
  }

  async #close(): Promise<void> {
    await this.#life.close()
    this.#keeper.listeners.delete(this.#onEvent)
    for (const watched of this.#watched) watched.release()
    await this.#leave()
  }
}
