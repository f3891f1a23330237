/**
 * A line between one reading thread and the engine: wants go out by one ring of shared memory, what became of them comes back by another (line-ring.ts). Nothing is posted
 * while both sides are awake.
 *
 * Two bells. The engine, which has an event loop, is woken by a message. The reading thread is woken by an eventfd, which it can wait for together with its guests'
 * descriptors, or, if it has an event loop, by a message.
 *
 * - At most WANTS_MAX wants are outstanding, so neither ring can be full: `LineClient.want` refuses what is beyond that.
 * - Every want that was taken is answered exactly once, also when the engine closes or its thread dies: then by the client itself, from the word `ended`.
 * - An answer that is good comes with a pin on the slot, which the reader gives back.
 *
 * The reading side is line-client.ts, with promises line-promises.ts; the engine's side is line-server.ts.
 */
import type { MessagePort } from 'node:worker_threads'
import type { ErrorCode, Tier } from '../errors.ts'
import { ringEventFd } from '../util/eventfd.ts'
import type { Failure } from '../util/failure.ts'
import type { Priority } from '../util/urgency.ts'
import { Ring } from './line-ring.ts'

/** Names that thread in errors that came from it. */
export const ENGINE_THREAD = "the engine's thread"

/** Wants of one thread under way at a time; a power of two: full shares of 128 restores (pager/wants.ts). The rings take 129 KiB. */
export const WANTS_MAX = 4096

/**
 * A request's number is the place it takes among the WANTS_MAX (the low bits) and a generation: a place
 * that is used again is another request. What is said of a request may come late, when it has been
 * answered and its place is somebody else's, and then it must mean nothing.
 */
const REQUEST_MASK = 2 ** 31 - 1

export function placeOf(request: number): number {
  return request & (WANTS_MAX - 1)
}

/** The request that takes the place next. A generation comes again after 2¹⁹ others of its place. */
export function nextRequest(request: number): number {
  return (request + WANTS_MAX) & REQUEST_MASK
}

/** One end of a line as it goes to a thread: posted with `port` in the transfer list. */
export interface LineEnd {
  readonly memory: SharedArrayBuffer
  readonly port: MessagePort
  /** The eventfd that wakes the reading thread; undefined: a message does. */
  readonly bellFd: number | undefined
}

/** What the reading side posts. `null`: the engine's bell. */
export type ToServer =
  | null
  | { readonly kind: 'raise'; readonly request: number; readonly priority: Priority }
  | { readonly kind: 'cancel'; readonly request: number }

/** What the engine's side posts where the bell is a message. `null`: the bell. A failure goes ahead of the entry that tells of it. */
export type ToClient = null | { readonly request: number; readonly failure: Failure }

/** Requests are their number, handle, chunk, priority; completions the request's number, status, slot, tier. */
export interface LineParts {
  readonly requests: Ring
  readonly completions: Ring
  /** One word: 0, or the status that every outstanding and later want has. */
  readonly ended: Int32Array
  /** Hits and bytes that the reading thread found in the arena: it alone writes them. */
  readonly counts: Float64Array
}

/** Memory of a new line. */
export function allocateLine(): SharedArrayBuffer {
  return new SharedArrayBuffer(2 * Ring.sizeBytes(WANTS_MAX) + 128)
}

/** The parts of a line, as one thread sees them. */
export function lineParts(memory: SharedArrayBuffer): LineParts {
  const ringBytes = Ring.sizeBytes(WANTS_MAX)
  return {
    requests: new Ring(memory, 0, WANTS_MAX),
    completions: new Ring(memory, ringBytes, WANTS_MAX),
    ended: new Int32Array(memory, 2 * ringBytes, 1),
    counts: new Float64Array(memory, 2 * ringBytes + 64, 2),
  }
}

/** Fails everything outstanding on a line. For whoever knows that the engine's side puts nothing in any more; a reader with an event loop has its port to tell it. */
export function endLine({ memory, bellFd }: Omit<LineEnd, 'port'>, code: ErrorCode): void {
  Atomics.compareExchange(lineParts(memory).ended, 0, 0, statusOf(code))
  if (bellFd !== undefined) ringEventFd(bellFd)
}

/** Numbers of what crosses a line as a word; a priority is its index in PRIORITIES (util/urgency.ts). */
export const TIERS: readonly Tier[] = ['memory', 'disk', 'l2', 'origin']
/** 0 is good. `undefined` is an error without a code: a bug, of which a message tells more. */
export const STATUS_OK = 0
const CODE_OF_STATUS: readonly (ErrorCode | undefined)[] = [
  undefined,
  'NOT_FOUND',
  'CORRUPT',
  'WRONG_KEY',
  'BAD_FORMAT',
  'UNAVAILABLE',
  'TIMEOUT',
  'CONFLICT',
  'CLOSED',
  'DENIED',
  'NO_SPACE',
  'UNSUPPORTED',
]

/** 1 and more. */
export function statusOf(code: ErrorCode | undefined): number {
  return 1 + CODE_OF_STATUS.indexOf(code)
}

export function codeOf(status: number): ErrorCode | undefined {
  return CODE_OF_STATUS[status - 1]
}
