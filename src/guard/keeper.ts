/**
 * Keeps a guard process running. What is watched is remembered here, with a descriptor of our own for each, so that a guard that ends is replaced and the next is told
 * everything again. Without this copy the caller might have closed his, and its number be another's.
 *
 * It never gives up: guards that keep ending are started with longer and longer pauses between them. Owners are told when there is none and when there is one again.
 */
import { closeSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { fromErrno, ThawError } from '../errors.ts'
import { type Clock, systemClock } from '../util/clock.ts'
import { ERRNO, type Native } from '../util/native.ts'
import { systemErrorOf } from '../util/system-error.ts'
import { GuardConnection, GuardGone } from './connection.ts'
import type { GuardRequest } from './protocol.ts'

/** Each costs a descriptor here and one in the guard. */
const WATCHED_MAX = 16_384
/** The first is replaced at once; then the pause doubles, until one has lived for a while. */
const PAUSE_MS = 100
const PAUSE_MS_MAX = 10_000
const LIVED_MS = 60_000

/** fcntl(2). Above the standard streams. */
const F_DUPFD_CLOEXEC = 1030
const DUP_FROM = 3

export type GuardEvent =
  /** The guard process has ended. Until the next is there nobody watches; what is watched meanwhile, it is told of. */
  | { readonly kind: 'lost'; readonly reason: ThawError }
  /** It is there, and has been told of everything. */
  | { readonly kind: 'restored' }

export type WatchRequest =
  | { readonly kind: 'process'; readonly pid: number }
  | { readonly kind: 'mount'; readonly path: string; readonly present: readonly number[] }
  | { readonly kind: 'descriptor' }

interface Entry {
  readonly request: GuardRequest & { readonly id: number }
  readonly fd: number | undefined
}

export class GuardKeeper {
  readonly listeners: Set<(event: GuardEvent) => void> = new Set()
  readonly #native: Native
  readonly #clock: Clock
  readonly #entries = new Map<number, Entry>()
  readonly #closing = new AbortController()
  readonly #kept: Promise<void>
  /** Undefined: it has ended, and the next is told of what is watched meanwhile. */
  #guard: GuardConnection | undefined
  #lastId = 0

  private constructor(native: Native, clock: Clock, guard: GuardConnection) {
    this.#native = native
    this.#clock = clock
    this.#guard = guard
    this.#kept = this.#keep(guard)
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
    this.#closing.abort()
    await this.#guard?.end()
    await this.#kept
    for (const entry of this.#entries.values()) closeEntry(entry)
    this.#entries.clear()
  }

  async #tell(entry: Entry): Promise<void> {
    try {
      if (this.#guard !== undefined) check(entry, await this.#guard.ask(entry.request, entry.fd))
    } catch (error) {
      // The next is told.
      if (!(error instanceof GuardGone) || this.#closing.signal.aborted) throw error
    }
  }

  /** A guard is told behind all that it was told before, so it does not come to watch what was released. */
  #release(entry: Entry): void {
    if (!this.#entries.delete(entry.request.id)) return
    const told = this.#guard?.ask({ kind: 'release', id: entry.request.id })
    Promise.resolve(told)
      .catch(() => undefined)
      .then(() => closeEntry(entry))
  }

  async #keep(first: GuardConnection): Promise<void> {
    const { signal } = this.#closing
    let guard: GuardConnection | undefined = first
    let pauseMs = 0
    while (guard !== undefined) {
      const startedAt = this.#clock.now()
      await guard.exited
      this.#guard = undefined
      if (signal.aborted) return
      this.#emit({ kind: 'lost', reason: new ThawError('UNAVAILABLE', `the guard process ${guard.pid} has ended`) })
      if (this.#clock.now() - startedAt >= LIVED_MS) pauseMs = 0
      for (guard = undefined; guard === undefined && !signal.aborted; pauseMs = nextPause(pauseMs)) {
        await sleep(pauseMs, undefined, { signal, ref: false }).catch(() => undefined)
        guard = await this.#startNext()
      }
      if (guard !== undefined) this.#emit({ kind: 'restored' })
    }
  }

  /** @returns a guard that has been told of everything; undefined if it could not be started, or ended, or none is wanted any more */
  async #startNext(): Promise<GuardConnection | undefined> {
    try {
      if (this.#closing.signal.aborted) return undefined
      const guard = await GuardConnection.start(this.#native, this.#clock)
      this.#guard = guard
      if (this.#closing.signal.aborted) await guard.end()
      // Those that are added meanwhile are told of too.
      for (const { request, fd } of this.#entries.values()) await guard.ask(request, fd)
      return guard
    } catch {
      this.#guard = undefined
      return undefined
    }
  }

  #emit(event: GuardEvent): void {
    for (const listener of this.listeners) listener(event)
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

function nextPause(pauseMs: number): number {
  return Math.min(PAUSE_MS_MAX, Math.max(PAUSE_MS, 2 * pauseMs))
}

function closeEntry({ fd }: Entry): void {
  if (fd !== undefined) closeSync(fd)
}
