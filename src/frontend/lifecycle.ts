/**
 * The life of a front end's main half: starting, serving, closing, closed.
 *
 * What it makes it registers here with what undoes it. All of that is undone once, the last first: when the start fails, when it is closed, when its pager dies. The start and the end
 * never overlap: an end that comes during the start has that fail, and then undoes what there is.
 */
import { pageCount } from '../chunk.ts'
import { ThawError } from '../errors.ts'
import { type Guard, type GuardEvent, startGuard } from '../guard.ts'
import type { FrontEndHooks } from '../pager/handle.ts'
import type { FrontEndSpec, ServedImage } from '../pager.ts'
import type { FrontEndKind, RestoreFrontEnd } from '../restore/serving.ts'
import type { Restore, RestoreEvent } from '../restore.ts'
import { Descriptor } from '../util/descriptor.ts'

export interface LifecycleOptions {
  readonly restore: Restore
  readonly kind: FrontEndKind
  /** The socket or the mount, as far as it is known. */
  path(): string
  readonly image?: string | undefined
  /** As `RestoreFrontEnd` has them; default: none. */
  readonly writable?: readonly string[] | undefined
  readonly states?: readonly string[] | undefined
  flush?: (() => Promise<void>) | undefined
}

/** An event without what every one of a front end says. */
export type OwnEvent = RestoreEvent extends infer Event
  ? Event extends RestoreEvent
    ? Omit<Event, 'frontEnd' | 'path' | 'image'> & { readonly image?: string }
    : never
  : never

/** By whoever served it, or its restore. */
export interface Closed {
  readonly reason: 'closed'
}

/** `end` is undefined if the start failed. */
type Undo<End> = (end: End | undefined) => void | Promise<void>

/** `Other`: the ends that it has beside being closed. */
export class Lifecycle<Other extends { readonly reason: string }> implements RestoreFrontEnd {
  /** Resolves when one that served has ended and nothing of it is left; never rejects. */
  readonly closed: Promise<Other | Closed>
  readonly kind: FrontEndKind
  readonly image: string | undefined
  readonly writable: readonly string[]
  readonly states: readonly string[]
  readonly flush: (() => Promise<void>) | undefined
  readonly #restore: Restore
  readonly #path: () => string
  readonly #closed = Promise.withResolvers<Other | Closed>()
  readonly #undone = Promise.withResolvers<void>()
  readonly #undos: Undo<Other | Closed>[] = []
  #state: 'starting' | 'serving' | 'closing' | 'closed' = 'starting'
  /** The first that was asked for. */
  #end: Other | Closed | undefined

  constructor({ restore, kind, path, image, writable = [], states = [], flush }: LifecycleOptions) {
    this.kind = kind
    this.image = image
    this.writable = writable
    this.states = states
    this.flush = flush
    this.#restore = restore
    this.#path = path
    this.closed = this.#closed.promise
  }

  get path(): string {
    return this.#path()
  }

  get isServing(): boolean {
    return this.#state === 'serving'
  }

  get isClosing(): boolean {
    return this.#state === 'closing'
  }

  /** It ends while what it serves is in use: what was written may be lost. */
  damage(): void {
    this.#restore.serving.damage(this.writable)
    for (const image of this.writable) {
      const { sizeBytes } = this.#restore.image(image)
      this.emit({ kind: 'damaged', image, page: 0, count: pageCount(sizeBytes), code: 'CLOSED' })
    }
  }

  /** Joins the restore and makes it serve. @throws CONFLICT, NOT_FOUND as `Serving.join`; CLOSED if it is ended meanwhile; what `begin` throws */
  async start(begin: () => Promise<void>): Promise<void> {
    try {
      this.own(this.#restore.serving.join(this))
      await begin()
      this.checkStarting()
      this.#state = 'serving'
    } catch (error) {
      await this.#undoAll(undefined)
      throw error
    }
  }

  /** Has this undone at the end. */
  own(undo: Undo<Other | Closed>): void {
    if (this.#state === 'closed') void this.#undo(undo, this.#end)
    else this.#undos.push(undo)
  }

  /** Takes an open descriptor, to close it at the end unless it is closed before. */
  ownDescriptor(fd: number): Descriptor {
    const descriptor = new Descriptor(fd)
    this.own(() => descriptor.close())
    return descriptor
  }

  /** @throws UNSUPPORTED, UNAVAILABLE */
  async guard(): Promise<Guard> {
    const guard = await startGuard({ onEvent: event => this.isServing && this.#hearOfGuard(event) })
    this.own(() => guard.close())
    return guard
  }

  /** Has a pager serve it. @throws as `Serving.attach`; CLOSED if it was ended meanwhile */
  async attach(spec: FrontEndSpec, hooks: FrontEndHooks): Promise<void> {
    this.checkStarting()
    const paged = await this.#restore.serving.attach(this, spec, hooks)
    this.own(() => paged.end())
  }

  attachHere(): Promise<ReadonlyMap<string, ServedImage>> {
    return this.#restore.serving.attachHere(this)
  }

  emit(event: OwnEvent): void {
    this.#restore.emit({ frontEnd: this.kind, path: this.path, image: this.image, ...event } as RestoreEvent)
  }

  /** Ends it; the first call says why. Resolves when nothing of it is left. Does not reject. */
  end(end: Other | Closed): Promise<void> {
    this.#end ??= end
    if (this.isServing) void this.#undoAll(this.#end)
    return this.#undone.promise
  }

  close(): Promise<void> {
    return this.end({ reason: 'closed' })
  }

  #hearOfGuard(event: GuardEvent): void {
    this.emit(event.kind === 'lost' ? { kind: 'guard-lost', reason: event.reason.message } : { kind: 'guard-restored' })
  }

  /** For between the steps of a start. @throws CLOSED */
  checkStarting(): void {
    if (this.#end !== undefined) throw new ThawError('CLOSED', `${this.path} was closed while it was started`, { object: this.path })
  }

  async #undoAll(end: Other | Closed | undefined): Promise<void> {
    this.#state = 'closing'
    for (let undo = this.#undos.pop(); undo !== undefined; undo = this.#undos.pop()) await this.#undo(undo, end)
    this.#state = 'closed'
    if (end !== undefined) {
      this.emit({ kind: 'closed', reason: end.reason })
      this.#closed.resolve(end)
    }
    this.#undone.resolve()
  }

  /** One that fails keeps no other. */
  async #undo(undo: Undo<Other | Closed>, end: Other | Closed | undefined): Promise<void> {
    try {
      await undo(end)
    } catch (error) {
      process.emitWarning(`something of ${this.path} is left: ${String(error)}`)
    }
  }
}
