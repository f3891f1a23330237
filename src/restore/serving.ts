/**
 * How the images of a restore are served: which front ends there are, which of them writes to what, the overlay, and the pager.
 *
 * A front end joins before it makes anything, and leaves when nothing of it is left. So whoever ends the restore knows of all of them, of those too that are being started.
 */
import type { Engine, HeldSnapshot } from '../engine.ts'
import { ThawError } from '../errors.ts'
import type { ImageKind } from '../manifest.ts'
import { damage, damageOf, type SharedOverlay } from '../overlay/image-overlay.ts'
import { Overlay, type OverlayOptions } from '../overlay.ts'
import { allocateFigures } from '../pager/figures.ts'
import type { FrontEndHooks, PagedFrontEnd, PagedRestore } from '../pager/handle.ts'
import { mainImages } from '../pager/main-images.ts'
import type { Pagers } from '../pager/threads.ts'
import type { FrontEndSpec, PagedImage, ServedImage } from '../pager.ts'
import type { SharedImage } from '../reader.ts'
import { makeOwnFolder } from '../util/own-folder.ts'
import { settledWithin } from '../util/settled-within.ts'

export type FrontEndKind = 'fuse' | 'nbd' | 'uffd'

export interface RestoredImage {
  readonly name: string
  readonly kind: ImageKind
  readonly sizeBytes: number
  /** @internal */
  share(): SharedImage
}

/** A front end's main half, as its restore knows it. */
export interface RestoreFrontEnd {
  readonly kind: FrontEndKind
  /** The socket or the mount. */
  readonly path: string
  /** The image, of a front end that has one. */
  readonly image?: string | undefined
  /** Images that can be written to through it: at most one front end each. */
  readonly writable: readonly string[]
  /** Images of which pages that the guest gives back are remembered. */
  readonly states: readonly string[]
  /** Has what the guest wrote arrive in the overlay. */
  flush?: (() => Promise<void>) | undefined
  /** Ends the front end, one that is being started too. Resolves when nothing of it is left, and does not reject. */
  close(): Promise<void>
}

/** An image, and how it is served. */
export interface ServedState {
  readonly image: RestoredImage
  readonly figures: SharedArrayBuffer
  overlay: SharedOverlay | undefined
  /** A VMM has its own copy of the memory, and writes to that. */
  isPrivate: boolean
  /** The front end that writes to it. */
  writer: RestoreFrontEnd | undefined
}

export interface ServingOptions {
  /** Of the restore. */
  readonly id: string
  /** Of the snapshot; undefined: the platform's. */
  readonly tenant: string | undefined
  readonly pagers: Pagers
  readonly engine: Engine
  readonly held: HeldSnapshot
  readonly images: readonly RestoredImage[]
  readonly overlay: OverlayOptions
  readonly pageDeadlineMs: number
}

/** On a disk, unlike /tmp and /run; with the user's id, because others can write there too. */
export const OVERLAY_DIR: string = `/var/tmp/thaw-overlays-${process.getuid?.()}`

/** What ending the front ends may take. Taking a mount off takes 30 s if its programs hang. */
const CLOSE_MS = 45_000

export class Serving {
  readonly frontEnds: Set<RestoreFrontEnd> = new Set()
  readonly images: ReadonlyMap<string, ServedState>
  /** Undefined: nothing was written, nor can be. */
  overlay: Overlay | undefined
  readonly #options: ServingOptions
  #opening: Promise<Overlay> | undefined
  #paged: Promise<PagedRestore> | undefined
  #isClosed = false
  #unused: Promise<unknown> = Promise.resolve()

  constructor(options: ServingOptions) {
    this.#options = options
    const states = options.images.map(image => ({
      image,
      figures: allocateFigures(),
      overlay: undefined,
      isPrivate: false,
      writer: undefined,
    }))
    this.images = new Map(states.map(state => [state.image.name, state]))
    options.pagers.warm()
  }

  /** @throws NOT_FOUND, with the names there are */
  image(name: string): ServedState {
    const image = this.images.get(name)
    if (image !== undefined) return image
    const names = [...this.images.keys()].join(', ')
    throw new ThawError('NOT_FOUND', `the snapshot of restore ${this.#options.id} has no image ${JSON.stringify(name)}: it has ${names}`, {
      object: name,
    })
  }

  /**
   * Makes a front end one of the restore's. Returns what ends that.
   * @throws CONFLICT if another writes to an image that it would write to; CORRUPT if one that it would serve may lack writes; NOT_FOUND; CLOSED
   */
  join(frontEnd: RestoreFrontEnd): () => void {
    this.checkOpen()
    for (const state of this.images.values()) if (frontEnd.image === undefined || frontEnd.image === state.image.name) checkWhole(state)
    for (const name of frontEnd.states) this.image(name)
    const images = frontEnd.writable.map(name => this.image(name))
    for (const { image, writer } of images) {
      if (writer !== undefined) {
        throw new ThawError('CONFLICT', `image ${image.name} is written to through ${writer.path} already`, { object: image.name })
      }
    }
    for (const image of images) image.writer = frontEnd
    this.frontEnds.add(frontEnd)
    return () => {
      this.frontEnds.delete(frontEnd)
      for (const image of images) image.writer = undefined
    }
  }

  /** Has the restore's pager serve a front end that has joined. @throws what the front end's start throws there; UNSUPPORTED, UNAVAILABLE, CLOSED */
  async attach(frontEnd: RestoreFrontEnd, spec: FrontEndSpec, hooks: FrontEndHooks): Promise<PagedFrontEnd> {
    await this.#giveOverlays(frontEnd)
    const paged = await this.#page()
    this.checkOpen()
    const served = await paged.start(spec, hooks)
    for (const name of frontEnd.states) this.image(name).isPrivate = true
    return served
  }

  /** The images, for a front end that has joined and is served on this thread. */
  async attachHere(frontEnd: RestoreFrontEnd): Promise<ReadonlyMap<string, ServedImage>> {
    await this.#giveOverlays(frontEnd)
    const { engine, held, pageDeadlineMs } = this.#options
    return mainImages(engine, held, this.#pagedImages(), pageDeadlineMs)
  }

  async #giveOverlays({ writable, states }: RestoreFrontEnd): Promise<void> {
    for (const name of writable) await this.#giveOverlay(name, true)
    for (const name of states) await this.#giveOverlay(name, false)
  }

  async #giveOverlay(name: string, written: boolean): Promise<void> {
    const image = this.image(name)
    if (image.overlay !== undefined && (!written || image.overlay.fd >= 0)) return
    this.overlay = await this.#openOverlay()
    this.checkOpen()
    image.overlay = await this.overlay.image(name, { written })
    const paged = await this.#paged
    await paged?.setImage(this.#pagedImage(image))
  }

  #openOverlay(): Promise<Overlay> {
    this.#opening ??= openOverlay(this.#options.overlay).catch(error => {
      this.#opening = undefined
      throw error
    })
    return this.#opening
  }

  #page(): Promise<PagedRestore> {
    const { pagers, pageDeadlineMs } = this.#options
    this.#paged ??= pagers
      .open(pageDeadlineMs, () => this.#pagedImages())
      .catch(error => {
        this.#paged = undefined
        throw error
      })
    return this.#paged
  }

  #pagedImages(): readonly PagedImage[] {
    return [...this.images.values()].map(image => this.#pagedImage(image))
  }

  #pagedImage({ image, overlay, figures }: ServedState): PagedImage {
    const { id, tenant = '', held } = this.#options
    const owner = { tenant, restore: id }
    return { name: image.name, kind: image.kind, image: { ...image.share(), handle: held.handle }, owner, overlay, figures }
  }

  /** Nobody knows whether all that was written to these images has arrived. */
  damage(names: readonly string[]): void {
    for (const name of names) {
      const { overlay } = this.image(name)
      if (overlay !== undefined) damage(overlay)
    }
  }

  /** Has what the guest wrote arrive in the overlay. */
  async flush(): Promise<void> {
    for (const frontEnd of this.frontEnds) await frontEnd.flush?.()
  }

  /** @throws CLOSED */
  checkOpen(): void {
    if (this.#isClosed) throw this.closedError()
  }

  closedError(): ThawError {
    const { id } = this.#options
    return new ThawError('CLOSED', `restore ${id} is closed`, { object: id })
  }

  /** From now on nobody joins, and nothing is started. */
  refuse(): void {
    this.#isClosed = true
  }

  /**
   * Ends all front ends, side by side, and then the restore on its pager. What is not through after
   * CLOSE_MS is left to itself, with a warning: a mount may stay, and a pager that hangs in the kernel
   * may come back and go on with what it was doing.
   * @returns whether nobody uses the overlay and the chunk numbers any more; else they are kept until
   * `unused` settles
   */
  async close(): Promise<boolean> {
    const { id } = this.#options
    const ended = Promise.all([...this.frontEnds].map(frontEnd => frontEnd.close()))
    if (!(await settledWithin(CLOSE_MS, ended))) {
      const left = [...this.frontEnds].map(({ path }) => path).join(', ')
      process.emitWarning(`restore ${id} is closed, but ${left} could not be ended within ${CLOSE_MS} ms`)
    }
    const paged = this.#paged?.then(
      restore => restore.end(),
      () => undefined,
    )
    this.#unused = Promise.all([ended, paged])
    if (await settledWithin(CLOSE_MS, this.#unused)) return true
    process.emitWarning(`restore ${id} is closed, but its pager does not answer`)
    return false
  }

  /** After `close`. Does not reject. */
  get unused(): Promise<unknown> {
    return this.#unused
  }

  /** After `close`: ends the overlay. @throws NO_SPACE, DENIED, UNAVAILABLE if it was to be kept and could not be */
  async closeOverlay(): Promise<void> {
    const overlay = await this.#opening?.catch(() => undefined)
    await overlay?.close()
  }
}

async function openOverlay(options: OverlayOptions): Promise<Overlay> {
  if (options.dir === OVERLAY_DIR) await makeOwnFolder(OVERLAY_DIR)
  return await Overlay.create(options)
}

/** Of pages that are known to be lost, reads are errors; of an image of which it is not known which they are, there is nothing to serve. */
function checkWhole({ image: { name }, overlay }: ServedState): void {
  if (overlay === undefined || damageOf(overlay)?.kind !== 'unknown') return
  throw new ThawError('CORRUPT', `image ${name} may lack what the guest wrote: end this restore, and go on from an earlier snapshot`, {
    object: name,
  })
}
