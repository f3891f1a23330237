/** The commits of one restore, one at a time: what each is a child of, and whether it may be. */
import type { ImageChanges } from '../changes.ts'
import type { ChildSpec, CommitOptions } from '../commit.ts'
import { ThawError } from '../errors.ts'
import { GivenBack } from '../overlay/given-back.ts'
import { damageOf, type SharedOverlay } from '../overlay/image-overlay.ts'
import { overlayChanges } from '../overlay/overlay-changes.ts'
import { checkWrittenBack } from '../overlay/written-back.ts'
import type { ImageSource, PushedSnapshot, PushOptions } from '../push.ts'
import { GivenDiffs } from './given-diffs.ts'
import { type CommitSources, commitSources } from './sources.ts'

/** An image of the restore, as it stands. */
export interface RestoreImage {
  readonly name: string
  readonly sizeBytes: number
  readonly overlay: SharedOverlay | undefined
  /** A VMM has its own copy of the memory, and writes to that. */
  readonly isPrivate: boolean
}

/** The restore, as its commits need it. */
export interface CommitSource<Result extends PushedSnapshot> {
  /** Of the restore. */
  readonly id: string
  images(): readonly RestoreImage[]
  /** Has what the guest wrote arrive in the overlay. */
  flush(): Promise<void>
  push(spec: ChildSpec, options: PushOptions): Promise<Result>
}

export class Commits<Result extends PushedSnapshot> {
  readonly #source: CommitSource<Result>
  readonly #givenBack = new Map<string, GivenBack>()
  /** Images of which a diff was taken: nobody else knows what is written to them. */
  readonly #private = new Set<string>()
  #underWay: Promise<Result> | undefined
  #last: Result | undefined
  /** Images that `#last` has from whole sources. */
  #whole: ReadonlySet<string> = new Set()
  readonly #givenDiffs = new GivenDiffs()

  constructor(source: CommitSource<Result>) {
    this.#source = source
  }

  /** @throws CONFLICT if another one is under way; as `Restore.commit` */
  async commit(options: CommitOptions): Promise<Result> {
    if (this.#underWay !== undefined) {
      const { id } = this.#source
      await this.#givenDiffs.note(this.#source.images(), options)
      throw new ThawError('CONFLICT', `restore ${id} is being committed already: wait for that to end`, { object: id })
    }
    this.#underWay = this.#commit(options)
    try {
      return await this.#underWay
    } finally {
      this.#underWay = undefined
    }
  }

  /** Resolves when none is under way. */
  async ended(): Promise<void> {
    await this.#underWay?.catch(() => undefined)
  }

  async #commit(options: CommitOptions): Promise<Result> {
    const { diffs = {}, diffBase, images: whole = {}, layer, tenant, tag, labels, ...pushOptions } = options
    await this.#givenDiffs.note(this.#source.images(), options)
    this.#checkBase(options)
    const parent = diffBase === 'last-commit' ? this.#last : undefined
    await this.#settle()
    const images = this.#source.images().map(image => ({
      name: image.name,
      changes: image.overlay && this.#changesOf(image.name, image.overlay, parent !== undefined),
      isServedWritable: image.overlay !== undefined && image.overlay.fd >= 0,
      isPrivate: image.isPrivate || this.#private.has(image.name),
      wasWhole: parent !== undefined && this.#whole.has(image.name),
    }))
    await using sources = await commitSources(images, options)
    for (const name of Object.keys(diffs)) this.#private.add(name)
    this.#givenDiffs.check(sources.identities, options)
    const result = await this.#source.push(
      { parent: parent?.id, layer: layer ?? parent?.layer, tenant: tenant ?? parent?.tenant, tag, labels, images: this.#settling(sources) },
      pushOptions,
    )
    for (const givenBack of this.#givenBack.values()) givenBack.committed()
    this.#whole = new Set([...(parent === undefined ? [] : this.#whole), ...Object.keys(whole)])
    this.#last = result
    this.#givenDiffs.committed(options)
    return result
  }

  #checkBase({ diffs = {}, diffBase }: CommitOptions): void {
    if (diffBase !== undefined && diffBase !== 'snapshot' && diffBase !== 'last-commit') {
      throw new RangeError(`diffs begin at ${JSON.stringify(diffBase)}: not at "snapshot" or "last-commit"`)
    }
    if (diffBase === 'last-commit' && this.#last === undefined) {
      throw new RangeError('diffs cannot begin at the last commit: this restore has none yet')
    }
    if (Object.keys(diffs).length > 0 && diffBase === undefined && this.#last !== undefined) {
      throw new RangeError(
        `${this.#last.id} was committed before: say whether the diffs begin there or at the snapshot (diffBase, --diff-base)`,
      )
    }
  }

  /** What the overlay of an image has now. */
  #changesOf(name: string, overlay: SharedOverlay, sinceCommit: boolean): ImageChanges {
    const changes = overlayChanges(overlay)
    if (overlay.fd >= 0) return changes
    const givenBack = this.#givenBack.get(name) ?? new GivenBack(overlay)
    this.#givenBack.set(name, givenBack)
    givenBack.note()
    return { ...changes, stretches: () => givenBack.stretches({ sinceCommit }) }
  }

  /** Has the guest's writes arrive. @throws CORRUPT if one was lost, now or before */
  async #settle(): Promise<void> {
    const failure = await this.#source.flush().then(
      () => undefined,
      (error: unknown) => ({ error }),
    )
    for (const { name, overlay } of this.#source.images()) {
      if (overlay !== undefined) await checkWrittenBack(overlay)
      const damage = overlay && damageOf(overlay)
      if (damage === undefined) continue
      const what =
        damage.kind === 'page'
          ? `lost what the guest wrote to page ${damage.page}`
          : 'may lack writes: its disk failed, or it was in use when what served it ended'
      const message = `image ${name} ${what}: this restore cannot be committed any more: end it, and go on from an earlier snapshot`
      throw new ThawError('CORRUPT', message, { object: name })
    }
    if (failure !== undefined) throw failure.error
  }

  /** The sources, with one flush of all of them before they are asked whether they changed. */
  #settling({ images }: CommitSources): Record<string, ImageSource> {
    let settled: Promise<void> | undefined
    const settling = (changes: ImageChanges): ImageChanges => ({
      sizeBytes: changes.sizeBytes,
      stretches: () => changes.stretches(),
      checkUnchanged: async () => {
        settled ??= this.#settle()
        await settled
        await changes.checkUnchanged()
      },
    })
    return Object.fromEntries(
      Object.entries(images).map(([name, image]) => [name, 'changes' in image ? { ...image, changes: settling(image.changes) } : image]),
    )
  }
}
