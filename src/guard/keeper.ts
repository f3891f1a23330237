/**
 * Keeps one guard process running: what is watched is remembered here, with a descriptor of our own for every process, so that a guard that ends can be replaced and told
 * everything again. Without this copy the caller might have closed his, and its number be another's.
 *
 * A guard that keeps ending, or does not start again, is lost: said once, and every later watch is refused. Owners decide what that means; nothing is killed.
 */
import { closeSync } from 'node:fs'
import { fromErrno, ThawError } from '../errors.ts'
import { type Clock, systemClock } from '../util/clock.ts'
import { ERRNO, type Native } from '../util/native.ts'
import { systemErrorOf } from '../util/system-error.ts'
import { GuardConnection, GuardGone } from './connection.ts'
import type { GuardRequest } from './protocol.ts'

/** Each costs a descriptor here and one in the guard. */
const WATCHED_MAX = 16_384
/** So many are started in place of others within the time: one may be killed by mistake, more are no accident. */
const REPLACED_MAX = 5
const REPLACED_WITHIN_MS = 60_000

/** fcntl(2). Above the standard streams. */
const F_DUPFD_CLOEXEC = 1030
const DUP_FROM = 3

export type WatchRequest =
  | { readonly kind: 'process'; readonly pid: number }
  | { readonly kind: 'mount'; readonly path: string; readonly present: readonly number[] }
  | { readonly kind: 'descriptor' }

interface Entry {
  readonly request: GuardRequest & { readonly id: number }
  readonly fd: number | undefined
}

export class GuardKeeper {
  /** Resolves once, with the reason, when nobody watches any more though somebody should. */
  readonly lost: Promise<ThawError>
  readonly #lose: (reason: ThawError) => void
  readonly #native: Native
  readonly #clock: Clock
  readonly #entries = new Map<number, Entry>()
  /** Has been told of everything; rejects with why it is lost. */
  #guard: Promise<GuardConnection>
  #lastId = 0
  #replacedAt: number[] = []
  #isClosed = false

  private constructor(native: Native, clock: Clock, guard: GuardConnection) {
    this.#native = native
    this.#clock = clock
    const { promise, resolve } = Promise.withResolvers<ThawError>()
    this.lost = promise
    this.#lose = resolve
    this.#guard = Promise.resolve(guard)
    this.#replaceAfter(guard)
  }

  /** @throws UNAVAILABLE */
  static async start(native: Native, clock: Clock = systemClock): Promise<GuardKeeper> {
    try {
      return new GuardKeeper(native, clock, await GuardConnection.start(native, clock))
    } catch (cause) {
      throw new ThawError('UNAVAILABLE', 'the guard process cannot be started', { cause })
    }
  }

  /**
   * Resolves, when the guard has it, with the function that releases it.
   * @param fd a process's pidfd, or a descriptor; stays the caller's. @throws what `Guard` says
   */
  async watch(request: WatchRequest, fd?: number): Promise<() => void> {
    if (this.#entries.size >= WATCHED_MAX) throw new ThawError('UNAVAILABLE', `the guard watches ${WATCHED_MAX} already`)
    const id = ++this.#lastId
    const entry: Entry = { request: { ...request, id }, fd: fd === undefined ? undefined : this.#duplicate(fd) }
    this.#entries.set(id, entry)
    try {
      await this.#tell(entry)
    } catch (error) {
      this.#release(entry)
      throw error
    }
    return () => this.#release(entry)
  }

  /** Nothing is killed. Resolves when the guard is gone. */
  async close(): Promise<void> {
    this.#isClosed = true
    const guard = await this.#guard.catch(() => undefined)
    await guard?.end()
    for (const entry of this.#entries.values()) closeEntry(entry)
    this.#entries.clear()
  }

  /** A guard that ends meanwhile is followed by one that is told. */
  async #tell(entry: Entry): Promise<void> {
    for (;;) {
      const guard = await this.#guard
      try {
        return check(entry, await guard.ask(entry.request, entry.fd))
      } catch (error) {
        if (!(error instanceof GuardGone) || this.#isClosed) throw error
        await guard.exited
      }
    }
  }

  #release(entry: Entry): void {
    if (!this.#entries.delete(entry.request.id)) return
    const { id } = entry.request
    // Behind all that was said about it; a guard that is told of everything anew is not told of it any more.
    const told = this.#guard.then(guard => guard.ask({ kind: 'release', id }))
    told.catch(() => undefined).then(() => closeEntry(entry))
  }

  #replaceAfter(guard: GuardConnection): void {
    guard.exited.then(() => {
      if (this.#isClosed) return
      this.#guard = this.#replace()
      this.#guard.then(
        next => this.#replaceAfter(next),
        reason => this.#lose(reason),
      )
    })
  }

  async #replace(): Promise<GuardConnection> {
    for (let cause: unknown; ; ) {
      const now = this.#clock.now()
      this.#replacedAt = [...this.#replacedAt.filter(at => now - at < REPLACED_WITHIN_MS), now]
      if (this.#replacedAt.length > REPLACED_MAX) throw new ThawError('UNAVAILABLE', 'the guard process keeps ending', { cause })
      try {
        return await this.#startNext()
      } catch (error) {
        cause = error
      }
    }
  }

  async #startNext(): Promise<GuardConnection> {
    const guard = await GuardConnection.start(this.#native, this.#clock)
    for (const { request, fd } of this.#entries.values()) await guard.ask(request, fd)
    return guard
  }

  #duplicate(given: number): number {
    const fd = this.#native.fcntl(given, F_DUPFD_CLOEXEC, DUP_FROM)
    if (fd >= 0) return fd
    const errno = this.#native.errno()
    if (errno === ERRNO.EBADF) throw new RangeError(`descriptor ${given} is not open`)
    throw fromErrno(systemErrorOf(errno, 'fcntl'), 'cannot keep a descriptor', String(given))
  }
}

/** A process that has ended is nothing to watch. */
function check({ request }: Entry, errno: number): void {
  if (errno === 0 || errno === ERRNO.ESRCH) return
  const what = request.kind === 'process' ? `process ${request.pid}` : request.kind
  throw fromErrno(systemErrorOf(errno, 'guard'), 'the guard cannot watch', what)
}

function closeEntry({ fd }: Entry): void {
  if (fd !== undefined) closeSync(fd)
}
