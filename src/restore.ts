/**
 * A restore: one life of one snapshot in one VM. It has an id, the front ends by which the VMM reads the images, an overlay with what the guest writes, and figures.
 *
 * Its front ends are served by one pager (pager.ts). Closing it ends them, and removes the overlay unless it is kept.
 */
import { randomBytes, randomUUID } from 'node:crypto'
import { Commits } from './commit/commits.ts'
import type { ChildSpec, CommitOptions } from './commit.ts'
import type { Engine, HeldSnapshot } from './engine.ts'
import { type ErrorCode, ThawError } from './errors.ts'
import type { ImageKind } from './manifest.ts'
import type { SharedOverlay } from './overlay/image-overlay.ts'
import { Overlay, type OverlayFigures, type OverlayOptions } from './overlay.ts'
import { allocateFigures, readFigures, type ServedFigures } from './pager/figures.ts'
import { mainImages } from './pager/main-images.ts'
import type { PagerHandle, Pagers } from './pager/threads.ts'
import { type DamagedPages, type FrontEndEvent, type FrontEndSpec, PAGE_DEADLINE_MS, type PagedImage, type ServedImage } from './pager.ts'
import type { PushOptions } from './push.ts'
import type { SharedImage } from './reader.ts'
import type { PushResult } from './snapshot-store/contract.ts'
import { makeOwnFolder } from './util/own-folder.ts'

/** The snapshot, as a restore needs it. */
export interface RestoredSnapshot {
  readonly id: string
  readonly createdAt: Date
  readonly images: readonly RestoredImage[]
}

export interface RestoredImage {
  readonly name: string
  readonly kind: ImageKind
  readonly sizeBytes: number
  /** @internal */
  share(): SharedImage
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

export type FrontEndKind = 'fuse' | 'nbd' | 'uffd'

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
  | /** The front end has ended. */ { readonly kind: 'closed'; readonly reason: string }
)

export interface RestoreOptions {
  /** Default: a fresh one. Letters, digits, `-` and `_`, at most 64, the first a letter or a digit. */
  readonly id?: string | undefined
  readonly overlay?: OverlaySettings | undefined
  /** How long a page may be waited for before it is an error; default 60 s. */
  readonly pageDeadlineMs?: number | undefined
  /** Called for every event; must not throw. */
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

/** What a front end's main half asks for. */
export interface AttachOptions {
  readonly kind: FrontEndKind
  /** The socket or the mount. */
  readonly path: string
  /** The image, of a front end that has one. */
  readonly image?: string | undefined
  /** Images that can be written to through it: at most one front end each. */
  readonly writable?: readonly string[] | undefined
  /** Images of which pages that the guest gives back are remembered. */
  readonly states?: readonly string[] | undefined
  /** Has what the guest wrote arrive in the overlay. */
  flush?(): Promise<void>
  onEvent(event: FrontEndEvent): void
  /** Ends the front end, by closing what was returned by `attach` too: called when the restore is closed. */
  close(): Promise<void>
}

export interface AttachedFrontEnd {
  /** Lets go of it: afterwards its descriptors may be closed. Idempotent, does not reject. */
  detach(): Promise<void>
  /** Settles with the reason if the pager died, and so the front end with it. It closes its descriptors: whoever waits at them must not wait for ever. */
  readonly died: Promise<Error>
}

/** A front end that is served on this thread. */
export interface AttachedHere {
  readonly images: ReadonlyMap<string, ServedImage>
  detach(): Promise<void>
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
/** On a disk, unlike /tmp and /run; with the user's id, because others can write there too. */
const OVERLAY_DIR: string = `/var/tmp/thaw-overlays-${process.getuid?.()}`

interface ServedImageState {
  readonly image: RestoredImage
  /** Names the snapshot, and this restore, to the engine. */
  readonly handle: number
  readonly figures: SharedArrayBuffer
  overlay: SharedOverlay | undefined
  /** A VMM has its own copy of the memory, and writes to that. */
  isPrivate: boolean
  /** The front end that writes to it. */
  writer: AttachOptions | undefined
}

/** The restore, as its pager knows it. */
interface Paged {
  readonly pager: PagerHandle
  readonly number: number
}

/** Made by `Snapshot.restore`. */
export class Restore implements AsyncDisposable {
  readonly id: string
  readonly snapshot: RestoredSnapshot
  /** 64 fresh random bytes, to be handed to the guest (docs/RESUME.md). */
  readonly random: Uint8Array = randomBytes(RANDOM_BYTES)
  readonly startedAt: Date = new Date()
  readonly #overlayOptions: OverlayOptions
  readonly #source: RestoreSource
  readonly #onEvent: RestoreOptions['onEvent']
  readonly #deadlineMs: number
  readonly #images: ReadonlyMap<string, ServedImageState>
  readonly #frontEnds = new Set<AttachOptions>()
  #paged: Promise<Paged> | undefined
  /** Made when a front end first needs one. */
  #opening: Promise<Overlay> | undefined
  #overlay: Overlay | undefined
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
    this.#deadlineMs = pageDeadlineMs
    source.pagers.warm()
    const images = snapshot.images.map(({ name, sizeBytes }) => ({ name, sizeBytes }))
    this.#overlayOptions = { dir, name: id, images, sizeMax, keep }
    const states = snapshot.images.map(image => ({
      image,
      handle: source.held.handle,
      figures: allocateFigures(),
      overlay: undefined,
      isPrivate: false,
      writer: undefined,
    }))
    this.#images = new Map(states.map(state => [state.image.name, state]))
    this.#commits = new Commits({
      id,
      images: () => [...this.#images.values()].map(({ image: { name }, isPrivate, overlay }) => ({ name, isPrivate, overlay })),
      flush: async () => {
        for (const frontEnd of this.#frontEnds) await frontEnd.flush?.()
      },
      push: source.push,
    })
  }

  /** @throws NOT_FOUND, with the names there are */
  image(name: string): RestoredImage {
    return this.#image(name).image
  }

  #image(name: string): ServedImageState {
    const image = this.#images.get(name)
    if (image !== undefined) return image
    const names = [...this.#images.keys()].join(', ')
    throw new ThawError('NOT_FOUND', `snapshot ${this.snapshot.id} has no image ${JSON.stringify(name)}: it has ${names}`, { object: name })
  }

  /**
   * @internal For front ends: has a pager serve `spec`.
   * @throws CONFLICT if another front end writes to the same image; UNSUPPORTED without koffi; what the front end's start throws
   */
  async attach(spec: FrontEndSpec, options: AttachOptions): Promise<AttachedFrontEnd> {
    const died = Promise.withResolvers<Error>()
    const detach = await this.#join(options, async () => {
      const { pager, number } = await this.#page()
      const frontEnd = pager.number()
      const hooks = { onEvent: (event: FrontEndEvent) => options.onEvent(event), onPagerDied: died.resolve }
      await pager.startFrontEnd(number, frontEnd, spec, hooks)
      return () => pager.endFrontEnd(frontEnd)
    })
    return { detach, died: died.promise }
  }

  /** @internal For front ends that are served on this thread. @throws CONFLICT as `attach` */
  async attachHere(options: AttachOptions): Promise<AttachedHere> {
    const { engine, held } = this.#source
    let images: ReadonlyMap<string, ServedImage> = new Map()
    const detach = await this.#join(options, async () => {
      images = mainImages(engine, held, [...this.#images.values()].map(pagedImage), this.#deadlineMs)
      return async () => undefined
    })
    return { images, detach }
  }

  /** Makes a front end one of this restore's; `begin` starts it, and returns what ends it. */
  async #join(options: AttachOptions, begin: () => Promise<() => Promise<void>>): Promise<() => Promise<void>> {
    this.#checkOpen()
    const { writable = [], states = [] } = options
    try {
      for (const name of writable) this.#claim(name, options)
      this.#frontEnds.add(options)
      for (const name of writable) await this.#giveOverlay(name, true)
      for (const name of states) await this.#giveOverlay(name, false)
      const end = await begin()
      for (const name of states) this.#image(name).isPrivate = true
      let detached: Promise<void> | undefined
      return () => {
        detached ??= end().then(() => this.#leave(options))
        return detached
      }
    } catch (error) {
      this.#leave(options)
      throw error
    }
  }

  #leave(options: AttachOptions): void {
    this.#frontEnds.delete(options)
    for (const image of this.#images.values()) if (image.writer === options) image.writer = undefined
  }

  #page(): Promise<Paged> {
    this.#paged ??= this.#pickPager().catch(error => {
      this.#paged = undefined
      throw error
    })
    return this.#paged
  }

  async #pickPager(): Promise<Paged> {
    const pager = await this.#source.pagers.pick()
    const number = pager.number()
    pager.openRestore(number, this.#deadlineMs, [...this.#images.values()].map(pagedImage))
    return { pager, number }
  }

  #claim(name: string, writer: AttachOptions): void {
    const image = this.#image(name)
    if (image.writer !== undefined) {
      throw new ThawError('CONFLICT', `image ${name} is written to through ${image.writer.path} already`, { object: name })
    }
    image.writer = writer
  }

  async #giveOverlay(name: string, written: boolean): Promise<void> {
    const image = this.#image(name)
    if (image.overlay !== undefined && (!written || image.overlay.fd >= 0)) return
    this.#overlay = await this.#openOverlay()
    this.#checkOpen()
    image.overlay = await this.#overlay.image(name, { written })
    const { pager, number } = (await this.#paged) ?? {}
    pager?.setImage(number!, pagedImage(image))
  }

  #openOverlay(): Promise<Overlay> {
    this.#opening ??= openOverlay(this.#overlayOptions).catch(error => {
      this.#opening = undefined
      throw error
    })
    return this.#opening
  }

  /** @internal For front ends. */
  emit(event: RestoreEvent): void {
    this.#onEvent?.(event)
  }

  figures(): RestoreFigures {
    return {
      id: this.id,
      snapshot: this.snapshot.id,
      startedAt: this.startedAt.toISOString(),
      frontEnds: [...this.#frontEnds].map(({ kind, path, image }) => ({ kind, path, image })),
      images: [...this.#images.values()].map(({ image, figures }) => ({ name: image.name, ...readFigures(figures) })),
      overlay: this.#overlay?.figures(),
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
    this.#checkOpen()
    const { signal: closing } = this.#closing
    const signal = options.signal === undefined ? closing : AbortSignal.any([options.signal, closing])
    return await this.#commits.commit({ ...options, signal })
  }

  #checkOpen(): void {
    if (this.#closed !== undefined) throw this.#closedError()
  }

  #closedError(): ThawError {
    return new ThawError('CLOSED', `restore ${this.id} is closed`, { object: this.id })
  }

  /**
   * Ends commits that are under way, the front ends, and then the overlay. A VMM whose memory is served does not survive it. Idempotent.
   * @throws NO_SPACE, DENIED, UNAVAILABLE if the overlay was to be kept and could not be
   */
  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    // They read the overlay.
    this.#closing.abort(this.#closedError())
    await this.#commits.ended()
    await Promise.all([...this.#frontEnds].map(frontEnd => frontEnd.close()))
    const paged = await this.#paged?.catch(() => undefined)
    await paged?.pager.endRestore(paged.number)
    try {
      const overlay = await this.#opening?.catch(() => undefined)
      await overlay?.close()
    } finally {
      this.#source.onClose(this)
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

async function openOverlay(options: OverlayOptions): Promise<Overlay> {
  if (options.dir === OVERLAY_DIR) await makeOwnFolder(OVERLAY_DIR)
  return await Overlay.create(options)
}

function pagedImage({ image, handle, overlay, figures }: ServedImageState): PagedImage {
  return { name: image.name, kind: image.kind, image: { ...image.share(), handle }, overlay, figures }
}
