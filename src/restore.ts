/**
 * A restore: one life of one snapshot in one VM. It has an id, the front ends by which the VMM reads the images, an overlay with what the guest writes, and figures.
 *
 * Its front ends are served by one pager (pager.ts). Closing it ends them, and removes the overlay unless it is kept.
 */
import { randomBytes, randomUUID } from 'node:crypto'
import { Commits } from './commit/commits.ts'
import type { ChildSpec, CommitOptions } from './commit.ts'
import type { Engine, HeldSnapshot } from './engine.ts'
import type { ErrorCode } from './errors.ts'
import type { OverlayFigures } from './overlay.ts'
import { readFigures, type ServedFigures } from './pager/figures.ts'
import type { Pagers } from './pager/threads.ts'
import { type DamagedPages, PAGE_DEADLINE_MS } from './pager.ts'
import type { PushOptions } from './push.ts'
import { type FrontEndKind, OVERLAY_DIR, type RestoredImage, Serving } from './restore/serving.ts'
import type { PushResult } from './snapshot-store/contract.ts'

/** The snapshot, as a restore needs it. */
export interface RestoredSnapshot {
  readonly id: string
  /** Undefined: the platform's. */
  readonly tenant: string | undefined
  readonly createdAt: Date
  readonly images: readonly RestoredImage[]
}

/** What a restore reads by. */
export interface RestoreSource {
  readonly pagers: Pagers
  readonly engine: Engine
  /** The restore's own handle. */
  readonly held: HeldSnapshot
  /** Publishes a child of the snapshot. */
  readonly push: (spec: ChildSpec, options: PushOptions) => Promise<PushResult>
  readonly onClose: (restore: Restore) => void
}

/** What happens in a restore. `path` is the socket or the mount; `image` is undefined for a mount, which has them all. */
export type RestoreEvent = { readonly frontEnd: FrontEndKind; readonly path: string; readonly image?: string | undefined } & (
  | /** A VMM is there: its handshake is done, or it opened a file of the mount. */ {
      readonly kind: 'connected'
      readonly pid?: number | undefined
    }
  | /** A client was turned away. */ { readonly kind: 'refused'; readonly pid?: number | undefined; readonly reason: string }
  | /** A client has gone. */ { readonly kind: 'disconnected'; readonly pid?: number | undefined }
  | /** Bytes could not be had; whoever read them got an error. `corrupt`: the store's copy is not what was stored. */ {
      readonly kind: 'corrupt' | 'unreadable'
      readonly page: number
      readonly code: ErrorCode | undefined
    }
  | (DamagedPages & { readonly kind: 'damaged' })
  | /** The VMM was killed: better than a wrong page. */ { readonly kind: 'killed'; readonly pid: number; readonly reason: string }
  | /** The process that outlives ours and ends our guests is gone: should ours be killed before `guard-restored`, a VMM hangs, a mount stays. */ {
      readonly kind: 'guard-lost'
      readonly reason: string
    }
  | { readonly kind: 'guard-restored' }
  | /** The front end has ended. */ { readonly kind: 'closed'; readonly reason: string }
)

export interface RestoreOptions {
  /** Default: a fresh one. Letters, digits, `-` and `_`, at most 64, the first a letter or a digit. */
  readonly id?: string | undefined
  readonly overlay?: OverlaySettings | undefined
  /** How long a page may be waited for before it is an error; default 60 s. */
  readonly pageDeadlineMs?: number | undefined
  /** Called for every event. What it throws is a warning of the process's, the first time. */
  readonly onEvent?: ((event: RestoreEvent) => void) | undefined
}

export interface OverlaySettings {
  /** Folder for private writes; default: one of this user's in /var/tmp. */
  readonly dir?: string | undefined
  /** Most bytes of pages that may be written; default: what all images hold. */
  readonly sizeMax?: number | undefined
  /** Leave the overlay's files when the restore ends. */
  readonly keep?: boolean | undefined
}

export interface RestoreFigures {
  readonly id: string
  readonly snapshot: string
  /** RFC 3339. */
  readonly startedAt: string
  readonly frontEnds: readonly { readonly kind: FrontEndKind; readonly path: string; readonly image: string | undefined }[]
  readonly images: readonly ({ readonly name: string } & ServedFigures)[]
  /** Undefined: nothing can be written. */
  readonly overlay: OverlayFigures | undefined
}

/** It names a folder too, and stands behind flags. */
const ID = /^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/
const RANDOM_BYTES = 64
/** Made by `Snapshot.restore`. */
export class Restore implements AsyncDisposable {
  readonly id: string
  readonly snapshot: RestoredSnapshot
  /** 64 fresh random bytes, to be handed to the guest (docs/RESUME.md). */
  readonly random: Uint8Array = randomBytes(RANDOM_BYTES)
  readonly startedAt: Date = new Date()
  /** @internal For front ends. */
  readonly serving: Serving
  readonly #source: RestoreSource
  readonly #onEvent: RestoreOptions['onEvent']
  #hasWarned = false
  readonly #commits: Commits<PushResult>
  readonly #closing = new AbortController()
  #closed: Promise<void> | undefined

  /** @internal @throws RangeError for options that cannot be */
  constructor(snapshot: RestoredSnapshot, source: RestoreSource, options: RestoreOptions) {
    const { id = randomUUID(), overlay: { dir = OVERLAY_DIR, sizeMax, keep } = {}, pageDeadlineMs = PAGE_DEADLINE_MS } = options
    if (!ID.test(id))
      throw new RangeError(`${JSON.stringify(id)} is no id of a restore: 1 to 64 letters, digits, - and _, the first a letter or a digit`)
    if (!(pageDeadlineMs > 0)) throw new RangeError(`pageDeadlineMs ${pageDeadlineMs} is not a time to wait`)
    this.id = id
    this.snapshot = snapshot
    this.#source = source
    this.#onEvent = options.onEvent
    const { pagers, engine, held } = source
    const overlay = { dir, name: id, images: snapshot.images.map(({ name, sizeBytes }) => ({ name, sizeBytes })), sizeMax, keep }
    this.serving = new Serving({ id, tenant: snapshot.tenant, pagers, engine, held, images: snapshot.images, overlay, pageDeadlineMs })
    this.#commits = new Commits({
      id,
      images: () =>
        [...this.serving.images.values()].map(({ image: { name, sizeBytes }, isPrivate, overlay }) => ({
          name,
          sizeBytes,
          isPrivate,
          overlay,
        })),
      flush: () => this.serving.flush(),
      push: source.push,
    })
  }

  /** @throws NOT_FOUND, with the names there are */
  image(name: string): RestoredImage {
    return this.serving.image(name).image
  }

  /** @internal For front ends. An `onEvent` that fails is told of once, and harms nobody. */
  emit(event: RestoreEvent): void {
    try {
      const returned: unknown = this.#onEvent?.(event)
      if (returned instanceof Promise) returned.catch((error: unknown) => this.#warn(error))
    } catch (error) {
      this.#warn(error)
    }
  }

  #warn(error: unknown): void {
    if (this.#hasWarned) return
    this.#hasWarned = true
    process.emitWarning(`onEvent of restore ${this.id} failed: ${error instanceof Error ? error.stack : String(error)}`)
  }

  figures(): RestoreFigures {
    return {
      id: this.id,
      snapshot: this.snapshot.id,
      startedAt: this.startedAt.toISOString(),
      frontEnds: [...this.serving.frontEnds].map(({ kind, path, image }) => ({ kind, path, image })),
      images: [...this.serving.images.values()].map(({ image, figures }) => ({ name: image.name, ...readFigures(figures) })),
      overlay: this.serving.overlay?.figures(),
    }
  }

  /**
   * Publishes what the guest made of the snapshot as a child of it, or of the last commit; durable when this resolves. The guest has to be stopped before its VMM writes a diff or a state,
   * until this has resolved (docs/RESUME.md). Closing the restore ends it.
   * @throws RangeError for an image that does not exist, that needs a diff file and has none, or diffs of which it is not known where they begin; CONFLICT if the guest wrote meanwhile,
   * another commit is under way, or the tag was changed by someone else; CORRUPT if a write of the guest was lost: no commit is possible any more; UNSUPPORTED for a diff file whose
   * holes cannot be told; WRONG_KEY, DENIED, NO_SPACE, UNAVAILABLE, TIMEOUT; CLOSED
   */
  async commit(options: CommitOptions = {}): Promise<PushResult> {
    this.serving.checkOpen()
    const { signal: closing } = this.#closing
    const signal = options.signal === undefined ? closing : AbortSignal.any([options.signal, closing])
    return await this.#commits.commit({ ...options, signal })
  }

  /**
   * Ends commits that are under way and the front ends, side by side, and then the overlay. A VMM whose memory is served does not survive it. What cannot be ended within 45 s is
   * left, with a warning: its clients get errors, and what a thread that hangs may still use is kept. Idempotent.
   * @throws NO_SPACE, DENIED, UNAVAILABLE if the overlay was to be kept and could not be
   */
  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    this.serving.refuse()
    this.#closing.abort(this.serving.closedError())
    // Commits read the overlay.
    const [isUnused] = await Promise.all([this.serving.close(), this.#commits.ended()])
    if (isUnused) await this.#release()
    else void this.serving.unused.then(() => this.#release()).catch(error => process.emitWarning(`restore ${this.id}: ${String(error)}`))
  }

  async #release(): Promise<void> {
    try {
      await this.serving.closeOverlay()
    } finally {
      this.#source.onClose(this)
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}
