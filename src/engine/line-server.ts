/**
 * The engine's side of a line. It runs in the engine's event loop: a bell has it take all requests there are, and it says that it sleeps before it goes back to the loop.
 *
 * A reading thread that goes away, by its own will or not, leaves nothing behind: its wants are cancelled, and pins that were sent and not received are taken back. Pins
 * that it had received are lost if it died with them: their slots are not used again.
 */
import type { Arena } from '../arena.ts'
import type { Pinned, WantOptions } from '../engine.ts'
import { type ErrorCode, isThawError, ThawError } from '../errors.ts'
import { ringEventFd } from '../util/eventfd.ts'
import { failureOf } from '../util/failure.ts'
import { PRIORITIES, Urgency } from '../util/urgency.ts'
import { endLine, type LineEnd, type LineParts, lineParts, STATUS_OK, statusOf, TIERS, type ToClient, type ToServer } from './line.ts'
import { ENTRY_WORDS } from './line-ring.ts'

/** What a line asks. */
export interface LineEngine {
  readonly arena: Pick<Arena, 'unpin'>
  /** As `HeldSnapshot.want`, by the snapshot's handle. */
  want(handle: number, chunk: number, options: WantOptions): Promise<Pinned>
}

export interface LineCounts {
  readonly hits: number
  readonly bytes: number
}

interface Want {
  readonly urgency: Urgency
  readonly controller: AbortController
}

export class LineServer {
  readonly #end: LineEnd
  readonly #engine: LineEngine
  readonly #parts: LineParts
  readonly #onClose: () => void
  readonly #entry = new Int32Array(ENTRY_WORDS)
  /** By the request's number: what is said of one that was answered finds nothing. */
  readonly #wants = new Map<number, Want>()
  #isOpen = true

  /** `onClose` is called once, when nobody will be served any more. */
  constructor(end: LineEnd, engine: LineEngine, onClose: () => void) {
    this.#end = end
    this.#engine = engine
    this.#parts = lineParts(end.memory)
    this.#onClose = onClose
    end.port.on('message', (message: ToServer) => this.#hear(message)).on('close', this.#onGone)
    // The reading thread is what keeps the process alive, if anything should.
    end.port.unref()
    this.#serve()
  }

  /** What the reading thread found in the arena. */
  counts(): LineCounts {
    return { hits: this.#parts.counts[0]!, bytes: this.#parts.counts[1]! }
  }

  /** The engine has ended: all that is outstanding, or wanted later, fails with that code. */
  end(code: ErrorCode): void {
    if (!this.#close()) return
    endLine(this.#end, code)
    if (this.#end.bellFd === undefined) this.#post(null)
    this.#end.port.off('close', this.#onGone).close()
  }

  /** The reading thread does not use the line any more. Idempotent. */
  close(): void {
    this.#onGone()
    this.#end.port.close()
  }

  readonly #onGone = (): void => {
    if (!this.#close()) return
    const reason = new ThawError('CLOSED', 'the thread that wanted it is gone')
    for (const { controller } of this.#wants.values()) controller.abort(reason)
    while (this.#parts.completions.take(this.#entry)) if (this.#entry[1] === STATUS_OK) this.#engine.arena.unpin(this.#entry[2]!)
  }

  #close(): boolean {
    if (!this.#isOpen) return false
    this.#isOpen = false
    this.#onClose()
    return true
  }

  #hear(message: ToServer): void {
    this.#serve()
    if (message === null) return
    const want = this.#wants.get(message.request)
    if (message.kind === 'raise') want?.urgency.raise(message.priority)
    else want?.controller.abort(new ThawError('CLOSED', 'not wanted any more'))
  }

  #serve(): void {
    const { requests } = this.#parts
    requests.wake()
    do {
      while (requests.take(this.#entry)) this.#begin(this.#entry)
    } while (!requests.sleep())
  }

  #begin(entry: Int32Array): void {
    const [request, handle, chunk, priority] = [entry[0]!, entry[1]!, entry[2]!, entry[3]!]
    const want = { urgency: new Urgency(PRIORITIES[priority]), controller: new AbortController() }
    this.#wants.set(request, want)
    this.#engine.want(handle, chunk, { urgency: want.urgency, signal: want.controller.signal }).then(
      pinned => this.#succeed(request, pinned),
      error => this.#fail(request, error),
    )
  }

  #succeed(request: number, { slot, tier }: Pinned): void {
    this.#wants.delete(request)
    if (this.#isOpen) this.#answer(request, STATUS_OK, slot, TIERS.indexOf(tier))
    else this.#engine.arena.unpin(slot)
  }

  #fail(request: number, error: unknown): void {
    this.#wants.delete(request)
    if (!this.#isOpen) return
    if (this.#end.bellFd === undefined) this.#post({ request, failure: failureOf(error) })
    this.#answer(request, statusOf(isThawError(error) ? error.code : undefined), 0, 0)
  }

  #answer(request: number, status: number, slot: number, tier: number): void {
    this.#parts.completions.put(request, status, slot, tier)
    if (!this.#parts.completions.takeSleeper()) return
    if (this.#end.bellFd === undefined) this.#post(null)
    else ringEventFd(this.#end.bellFd)
  }

  #post(message: ToClient): void {
    this.#end.port.postMessage(message)
  }
}
