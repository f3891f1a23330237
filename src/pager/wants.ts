/**
 * What served images wait for: chunks, each asked of the engine once however many wait for it.
 *
 * A deadline belongs to whoever waits. It was set when they came, and it holds to the end: a failure
 * that may pass (util/retry.ts) is asked for again for as long as somebody waits, any other is told at
 * once. Deadlines are kept here, because the engine may be what hangs; what it answers when nobody
 * waits any more is let go.
 *
 * A restore has a share of requests under way, the rest waits in a queue of its own. Among restores a
 * gate decides, so that no tenant whose store hangs takes all places of a line.
 */
import assert from 'node:assert/strict'
import { ABSENT, type Arena } from '../arena.ts'
import { LINE_FULL, type LineClient } from '../engine/line-client.ts'
import type { ErrorCode, Tier } from '../errors.ts'
import type { ChunkWaiter, PagerLoop } from '../pager.ts'
import { systemClock } from '../util/clock.ts'
import { Gate, type Owner, type Place } from '../util/gate.ts'
import { backoffMs, isTransient } from '../util/retry.ts'
import { callLater } from './call-later.ts'

/** How chunks are asked for. Each request is answered once, by `Wants.answer`, and not before `want` returned. */
export type Requests = Pick<LineClient, 'want' | 'cancel'>

/** What became of a request, as `Completion` of a line. */
export interface Answer {
  readonly request: number
  readonly slot: number
  readonly tier: Tier
  readonly code: ErrorCode | undefined
}

/** Who wants: a restore. */
export interface WantingRestore {
  /** Names its snapshot to the engine; its own. */
  readonly handle: number
  readonly owner: Owner
}

export interface WantsOptions {
  readonly arena: Pick<Arena, 'unpin'>
  readonly requests: Requests
  /** Requests under way at a time that `requests` never refuses. */
  readonly requestsMax: number
  readonly timers: Pick<PagerLoop, 'after'>
}

/**
 * Requests of one restore under way at a time: 16 MiB of opened chunks, more than round trips need to
 * overlap, and half of the engine's slab: one restore whose store hangs does not use up what its tenant
 * may hold there.
 */
export const RESTORE_REQUESTS_MAX = 32

interface Want {
  readonly restore: RestoreWants
  readonly chunk: number
  /** When each stops waiting, on the clock of `performance.now`. */
  readonly waiters: Map<ChunkWaiter, number>
  /** At the gate, or under way. */
  place: Place | undefined
  /** Under way; LINE_FULL: not. */
  request: number
  /** Failures in a row that may pass, and the last one's code. */
  failures: number
  code: ErrorCode | undefined
  /** The earliest of the deadlines for which a timer is set. */
  dueAt: number
  stopDeadline: (() => void) | undefined
  stopPause: (() => void) | undefined
}

/** The wants of a restore. */
class RestoreWants {
  readonly handle: number
  readonly owner: Owner
  readonly byChunk = new Map<number, Want>()
  /** Beyond the restore's share. */
  readonly queue = new Set<Want>()
  /** At the gate and under way, those that nobody waits for any more included. */
  asked = 0

  constructor({ handle, owner }: WantingRestore) {
    this.handle = handle
    this.owner = owner
  }
}

export class Wants {
  readonly #arena: Pick<Arena, 'unpin'>
  readonly #requests: Requests
  readonly #timers: Pick<PagerLoop, 'after'>
  readonly #gate: Gate
  /** By handle. */
  readonly #restores = new Map<number, RestoreWants>()
  /** By the request's number; those that nobody waits for any more have no waiters. */
  readonly #underWay = new Map<number, Want>()
  readonly #byWaiter = new Map<ChunkWaiter, Set<Want>>()

  constructor({ arena, requests, requestsMax, timers }: WantsOptions) {
    this.#arena = arena
    this.#requests = requests
    this.#timers = timers
    this.#gate = new Gate({ countMax: requestsMax, keepsFree: true })
  }

  /**
   * Has a chunk in the arena. The waiter is told once, not before this returns, and a waiter that wants
   * it again keeps its first deadline.
   */
  want(from: WantingRestore, chunk: number, waiter: ChunkWaiter, deadlineAt: number): void {
    const restore = this.#restores.get(from.handle) ?? this.#addRestore(from)
    const want = restore.byChunk.get(chunk) ?? this.#begin(restore, chunk)
    if (want.waiters.has(waiter)) return
    want.waiters.set(waiter, deadlineAt)
    const wants = this.#byWaiter.get(waiter)
    if (wants === undefined) this.#byWaiter.set(waiter, new Set([want]))
    else wants.add(want)
    this.#watchDeadline(want, deadlineAt)
  }

  /** Tells a waiter nothing any more, also of what others are being told just now. */
  forget(waiter: ChunkWaiter): void {
    const wants = this.#byWaiter.get(waiter)
    if (wants === undefined) return
    for (const want of wants) this.#leave(want, waiter)
  }

  /** A request was answered. */
  answer({ request, slot, tier, code }: Answer): void {
    const want = this.#underWay.get(request)
    assert(want !== undefined)
    this.#underWay.delete(request)
    want.request = LINE_FULL
    this.#leaveGate(want)
    if (slot === ABSENT) this.#failed(want, code)
    else {
      try {
        this.#tellAll(want, waiter => waiter.onChunk(want.chunk, slot, tier))
      } finally {
        this.#arena.unpin(slot)
      }
    }
  }

  #addRestore(from: WantingRestore): RestoreWants {
    const restore = new RestoreWants(from)
    this.#restores.set(from.handle, restore)
    return restore
  }

  #begin(restore: RestoreWants, chunk: number): Want {
    const want: Want = {
      restore,
      chunk,
      waiters: new Map(),
      place: undefined,
      request: LINE_FULL,
      failures: 0,
      code: undefined,
      dueAt: Number.POSITIVE_INFINITY,
      stopDeadline: undefined,
      stopPause: undefined,
    }
    restore.byChunk.set(chunk, want)
    this.#ask(want)
    return want
  }

  #ask(want: Want): void {
    const { restore, chunk } = want
    if (restore.asked === RESTORE_REQUESTS_MAX) {
      restore.queue.add(want)
      return
    }
    restore.asked++
    want.place = this.#gate.enter({ owner: restore.owner }, () => {
      want.request = this.#requests.want(restore.handle, chunk, 'demand')
      assert(want.request !== LINE_FULL)
      this.#underWay.set(want.request, want)
    })
  }

  /** Its place goes to another, of the same restore first. */
  #leaveGate(want: Want): void {
    const { restore } = want
    restore.asked--
    for (const next of restore.queue) {
      restore.queue.delete(next)
      this.#ask(next)
      break
    }
    want.place!.leave()
    want.place = undefined
    this.#forgetIdle(restore)
  }

  #forgetIdle(restore: RestoreWants): void {
    if (restore.byChunk.size === 0 && restore.asked === 0) this.#restores.delete(restore.handle)
  }

  #failed(want: Want, code: ErrorCode | undefined): void {
    if (want.waiters.size === 0) return
    if (!isTransient(code)) {
      this.#tellAll(want, waiter => waiter.onChunkFailed(want.chunk, code))
      return
    }
    want.code = code
    want.stopPause = this.#timers.after(backoffMs(++want.failures, systemClock), () => {
      want.stopPause = undefined
      this.#ask(want)
    })
  }

  #watchDeadline(want: Want, deadlineAt: number): void {
    if (deadlineAt >= want.dueAt) return
    want.dueAt = deadlineAt
    want.stopDeadline?.()
    want.stopDeadline = this.#timers.after(Math.max(0, deadlineAt - performance.now()), () => this.#onDue(want))
  }

  /** A deadline has passed: of some who wait, not of the others. */
  #onDue(want: Want): void {
    const now = performance.now()
    want.dueAt = Number.POSITIVE_INFINITY
    for (const [waiter, deadlineAt] of want.waiters) {
      if (deadlineAt > now) this.#watchDeadline(want, deadlineAt)
      else {
        this.#leave(want, waiter)
        callLater(waiter, () => waiter.onChunkFailed(want.chunk, want.code ?? 'TIMEOUT'))
      }
    }
  }

  /** One after the other. What one of them does may take back what the next waits for: it is not told then. */
  #tellAll(want: Want, call: (waiter: ChunkWaiter) => void): void {
    // Another of the same chunk may have begun since the last of its waiters went away.
    if (want.waiters.size === 0) return
    this.#end(want)
    for (const waiter of want.waiters.keys()) {
      this.#leave(want, waiter)
      callLater(waiter, () => call(waiter))
    }
  }

  #leave(want: Want, waiter: ChunkWaiter): void {
    want.waiters.delete(waiter)
    const wants = this.#byWaiter.get(waiter)!
    wants.delete(want)
    if (wants.size === 0) this.#byWaiter.delete(waiter)
    if (want.waiters.size === 0 && want.restore.byChunk.get(want.chunk) === want) this.#abandon(want)
  }

  /** Nobody waits for it any more. A request that is under way keeps its place until it is answered. */
  #abandon(want: Want): void {
    const { restore } = want
    this.#end(want)
    if (want.request !== LINE_FULL) this.#requests.cancel(want.request)
    else if (want.place !== undefined) this.#leaveGate(want)
    else restore.queue.delete(want)
    this.#forgetIdle(restore)
  }

  #end(want: Want): void {
    want.restore.byChunk.delete(want.chunk)
    this.#forgetIdle(want.restore)
    want.stopDeadline?.()
    want.stopPause?.()
  }
}
