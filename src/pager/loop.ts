/**
 * The loop of a pager's thread: epoll over descriptors, timers, and one source beside them that needs no descriptor while the thread is awake (the engine's answers).
 *
 * After something happened the loop *spins* for a while before it sleeps: it asks again without waiting. What a fault costs is the wake-up of a sleeping thread on another
 * processor, not the work (design: 50–60 µs asleep, 16 µs spinning). It spins as long as that has paid lately: a spin that found nothing lowers its credit, one that did,
 * or a sleep so short that a spin would have seen its end, raises it. An idle pager does not spin.
 *
 * Descriptors are level-triggered, and each takes a bounded amount at a time. While descriptors of
 * several tenants have something, a turn serves one of each tenant, of the restore and then the
 * descriptor that was served longest ago: a tenant with hundreds of busy descriptors takes no more of
 * the thread than one with a single descriptor.
 */
import assert from 'node:assert/strict'
import type { PagerLoop, Watched } from '../pager.ts'
import { EPOLL_DATA_OFFSET, EPOLL_EVENT_BYTES, ERRNO, type Native } from '../util/native.ts'
import { Timers } from '../util/timers.ts'

/** What is asked for beside descriptors. */
export interface PolledSource {
  /** Takes what there is. @returns whether there was anything */
  poll(): boolean
  /** Asks for a bell before the thread sleeps. False: there is something already. */
  sleep(): boolean
  /** No bell is needed any more. */
  wake(): void
}

export const SPIN_MICROSECONDS_DEFAULT = 50

/** Of <sys/epoll.h>. */
const EPOLL_ADD = 1
const EPOLL_DELETE = 2
const EPOLL_MODIFY = 3
const EPOLLIN = 1
const EPOLLOUT = 4
const EPOLLERR = 8
const EPOLLHUP = 16

/** Descriptors that are known to have something at a time. */
const EVENTS_MAX = 512
/** Descriptors of one tenant that are served in a turn while no other tenant's have anything. */
const EVENTS_ALONE = 8
/** Timers that ring in a turn. */
const TIMERS_A_TURN = 16
/** The longest wait of epoll_wait, whose timeout is an int. */
const SLEEP_MS_MAX = 2 ** 31 - 1
/** Spins that may fail in a row before the loop stops spinning. */
const CREDIT_MAX = 16
/** What a sleep that a spin would have spared adds. */
const CREDIT_OF_SHORT_SLEEP = 2
/** A sleep and a wake-up take that much longer than the wait itself. */
const WAKE_UP_MS = 0.06
/** While it spins on one descriptor, the loop looks at the others every so many tries. */
const LOOK_AROUND = 8

/** Whose descriptors they are: a restore. One object each. */
export interface TurnOwner {
  /** Equal for all restores of a tenant. */
  readonly tenant: unknown
  /** Counts what is served: the larger, the later it was this one's turn. */
  servedAt: number
}

interface Entry {
  readonly fd: number
  readonly watched: Watched
  readonly index: number
  readonly owner: TurnOwner
  servedAt: number
  /** What epoll said of it last. */
  events: number
}

export interface LoopOptions {
  readonly native: Native
  /** What it waits at; stays the caller's. */
  readonly epollFd: number
  readonly source: PolledSource
  /** How long to spin after something happened; 0: never. */
  readonly spinMicroseconds?: number | undefined
}

export class Loop implements PagerLoop {
  readonly #native: Native
  readonly #source: PolledSource
  readonly #spinMs: number
  readonly #epoll: number
  readonly #events = Buffer.alloc(EVENTS_MAX * EPOLL_EVENT_BYTES)
  readonly #event = Buffer.alloc(EPOLL_EVENT_BYTES)
  readonly #byFd = new Map<number, Entry>()
  /** By what epoll gives back. */
  readonly #entries: (Entry | undefined)[] = []
  /** Indices that are free once the events of this turn, which may name them, are through. */
  readonly #freed: number[] = []
  readonly #free: number[] = []
  readonly #timers = new Timers()
  /** By tenant: whose turn it is among the descriptors that have something. */
  readonly #next = new Map<unknown, Entry>()
  /** How often something was served. */
  #served = 0
  #credit = CREDIT_MAX
  /** The one descriptor that the last turn was about, to spin on. */
  #hot: Entry | undefined
  #isRunning = false

  constructor({ native, epollFd, source, spinMicroseconds = SPIN_MICROSECONDS_DEFAULT }: LoopOptions) {
    this.#native = native
    this.#source = source
    this.#spinMs = spinMicroseconds / 1000
    this.#epoll = epollFd
  }

  /** As PagerLoop says. Without an owner the descriptor is the pager's own. */
  watch(fd: number, watched: Watched, owner: TurnOwner = { tenant: watched, servedAt: 0 }): void {
    assert(!this.#byFd.has(fd), `descriptor ${fd} is watched already`)
    const index = this.#free.pop() ?? this.#entries.length
    const entry: Entry = { fd, watched, index, owner, servedAt: 0, events: 0 }
    this.#control(EPOLL_ADD, entry, EPOLLIN)
    this.#entries[index] = entry
    this.#byFd.set(fd, entry)
  }

  rewatch(fd: number, { readable, writable }: { readonly readable: boolean; readonly writable: boolean }): void {
    const entry = this.#byFd.get(fd)
    assert(entry !== undefined)
    this.#control(EPOLL_MODIFY, entry, (readable ? EPOLLIN : 0) | (writable ? EPOLLOUT : 0))
    if (!readable && this.#hot === entry) this.#hot = undefined
  }

  unwatch(fd: number): void {
    const entry = this.#byFd.get(fd)
    if (entry === undefined) return
    this.#native.epollControl(this.#epoll, EPOLL_DELETE, fd, this.#event)
    this.#byFd.delete(fd)
    this.#entries[entry.index] = undefined
    this.#freed.push(entry.index)
    if (this.#hot === entry) this.#hot = undefined
  }

  after(ms: number, callback: () => void): () => void {
    return this.#timers.add(performance.now() + ms, callback)
  }

  /** Serves until `stop`. */
  run(): void {
    this.#isRunning = true
    while (this.#isRunning) {
      const didSomething = this.#turn(0)
      if (didSomething || this.#spin()) continue
      this.#rest()
    }
  }

  stop(): void {
    this.#isRunning = false
  }

  #control(operation: number, { fd, index }: Entry, events: number): void {
    this.#event.fill(0)
    this.#event.writeUInt32LE(events, 0)
    this.#event.writeUInt32LE(index, EPOLL_DATA_OFFSET)
    const result = this.#native.epollControl(this.#epoll, operation, fd, this.#event)
    assert(result === 0, `epoll_ctl of descriptor ${fd}: errno ${this.#native.errno()}`)
  }

  /** One look at everything, waiting at most that long for a descriptor. True if something happened. */
  #turn(timeoutMs: number): boolean {
    let did = this.#source.poll()
    const count = this.#native.epollWait(this.#epoll, this.#events, EVENTS_MAX, did ? 0 : timeoutMs)
    if (count < 0) assert(this.#native.errno() === ERRNO.EINTR, `epoll_wait: errno ${this.#native.errno()}`)
    this.#hot = undefined
    if (count === 1) {
      const entry = this.#ready(0)
      if (entry !== undefined && this.#dispatch(entry, entry.events)) did = true
      this.#hot = entry && this.#entries[entry.index]
    } else if (count > 1 && this.#serveInTurn(count)) did = true
    if (this.#freed.length > 0) this.#free.push(...this.#freed.splice(0))
    if (this.#timers.size > 0) this.#timers.ring(performance.now(), TIMERS_A_TURN)
    return did
  }

  /** The entry that event `i` is about, unless it is not watched any more. */
  #ready(i: number): Entry | undefined {
    const at = i * EPOLL_EVENT_BYTES
    const entry = this.#entries[this.#events.readUInt32LE(at + EPOLL_DATA_OFFSET)]
    if (entry !== undefined) entry.events = this.#events.readUInt32LE(at)
    return entry
  }

  /** Serves one of the descriptors that have something for each tenant, or a few if they are all one tenant's. What was not served is told again. */
  #serveInTurn(count: number): boolean {
    const before = this.#served
    let did = false
    for (let round = 0; round < EVENTS_ALONE; round++) {
      for (let i = 0; i < count; i++) this.#nominate(this.#ready(i), before)
      const tenants = this.#next.size
      for (const entry of this.#next.values()) if (this.#entries[entry.index] === entry && this.#dispatch(entry, entry.events)) did = true
      this.#next.clear()
      if (tenants !== 1) break
    }
    return did
  }

  /** Makes it its tenant's next, if it was not served since `before` and waits longer than who is that now. */
  #nominate(entry: Entry | undefined, before: number): void {
    if (entry === undefined || entry.servedAt > before) return
    const { tenant, servedAt } = entry.owner
    const other = this.#next.get(tenant)
    if (other === undefined || (servedAt - other.owner.servedAt || entry.servedAt - other.servedAt) < 0) this.#next.set(tenant, entry)
  }

  #dispatch(entry: Entry, events: number): boolean {
    const { watched, owner } = entry
    entry.servedAt = ++this.#served
    owner.servedAt = this.#served
    try {
      if ((events & EPOLLOUT) !== 0) watched.onWritable?.()
      return (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) !== 0 ? watched.serve() : true
    } catch (error) {
      watched.onBroken(error)
      return true
    }
  }

  /** Asks again and again for a while. True if something came. */
  #spin(): boolean {
    if (this.#spinMs === 0 || this.#credit === 0) return false
    const until = performance.now() + this.#spinMs
    let tries = 0
    do {
      const hot = this.#hot
      if (hot === undefined || ++tries % LOOK_AROUND === 0 ? this.#turnKeeping(hot) : this.#dispatch(hot, EPOLLIN) || this.#source.poll()) {
        this.#credit = CREDIT_MAX
        return true
      }
    } while (performance.now() < until)
    this.#credit--
    return false
  }

  #turnKeeping(hot: Entry | undefined): boolean {
    const did = this.#turn(0)
    if (!did && hot !== undefined && this.#entries[hot.index] === hot) this.#hot = hot
    return did
  }

  #rest(): void {
    if (!this.#source.sleep()) return
    const started = performance.now()
    this.#turn(this.#untilTimer(started))
    this.#source.wake()
    const isShort = performance.now() - started < this.#spinMs + WAKE_UP_MS
    if (isShort) this.#credit = Math.min(CREDIT_MAX, this.#credit + CREDIT_OF_SHORT_SLEEP)
  }

  /** Milliseconds until the next timer, rounded up; -1 without one. */
  #untilTimer(now: number): number {
    if (this.#timers.size === 0) return -1
    return Math.min(SLEEP_MS_MAX, Math.max(0, Math.ceil(this.#timers.nextAt - now)))
  }
}
