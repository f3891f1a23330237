/**
 * Served images on a thread with an event loop, for what a pager cannot do: TLS. Chunks come by promises, and whoever holds up the thread holds up the guest.
 */
import { ABSENT } from '../arena.ts'
import type { Engine, HeldSnapshot } from '../engine.ts'
import { type ErrorCode, isThawError, ThawError } from '../errors.ts'
import type { PagedImage, ServedImage } from '../pager.ts'
import { systemClock } from '../util/clock.ts'
import { LiveImage } from './served-image.ts'
import { ImageSurroundings } from './surroundings.ts'
import { type Answer, type Requests, Wants } from './wants.ts'

/** Requests of one front end under way at a time. */
const REQUESTS_MAX = 256

/** Requests of one snapshot, by promises. */
class PromisedRequests implements Requests {
  readonly #held: HeldSnapshot
  readonly #onAnswer: (answer: Answer) => void
  /** By the request's number. */
  readonly #controllers = new Map<number, AbortController>()
  #last = 0

  constructor(held: HeldSnapshot, onAnswer: (answer: Answer) => void) {
    this.#held = held
    this.#onAnswer = onAnswer
  }

  want(_handle: number, chunk: number): number {
    const request = ++this.#last
    const controller = new AbortController()
    this.#controllers.set(request, controller)
    const answer = (slot: number, tier: Answer['tier'], code?: ErrorCode): void => {
      this.#controllers.delete(request)
      this.#onAnswer({ request, slot, tier, code })
    }
    void this.#held.want(chunk, { signal: controller.signal }).then(
      ({ slot, tier }) => answer(slot, tier),
      error => answer(ABSENT, 'memory', isThawError(error) ? error.code : undefined),
    )
    return request
  }

  cancel(request: number): void {
    this.#controllers.get(request)?.abort(new ThawError('CLOSED', 'not wanted any more'))
  }
}

/** Images of one snapshot for this thread. */
export function mainImages(
  engine: Engine,
  held: HeldSnapshot,
  images: readonly PagedImage[],
  deadlineMs: number,
): Map<string, ServedImage> {
  const { arena } = engine
  const timers = systemClock
  const requests = new PromisedRequests(held, answer => wants.answer(answer))
  const wants = new Wants({ arena, requests, requestsMax: REQUESTS_MAX, timers })
  const countHits = (chunks: number, bytes: number): void => engine.countHits(chunks, bytes)
  const around = new ImageSurroundings({ arena, wants, timers, native: undefined, countHits })
  return new Map(images.map(image => [image.name, new LiveImage(image, around, deadlineMs)]))
}
