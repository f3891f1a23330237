/**
 * The store as its users see it: push, open, list, tag, verify. Joins the object store, the keyring and the roots; the work is done in the modules it calls.
 */

import { diffSnapshots, type SnapshotDiff } from './diff.ts'
import { isThawError, ThawError } from './errors.ts'
import { type FoundOutline, findOutline, type Location, listSnapshots, openSnapshot, type StoredSnapshot } from './find.ts'
import { readIdentity, requireKinship } from './identity.ts'
import { type Inspection, inspectSnapshot, outlineFigures } from './inspect.ts'
import type { Keyring } from './keys.ts'
import { manifestKey, wrappedKeysKey } from './layout.ts'
import { checkTagName, formatTagName, type TagName } from './names.ts'
import { type PushedSnapshot, type PushOptions, pushSnapshot } from './push.ts'
import { type Hint, needsKeyring, Refs, type ResolvedRef } from './refs.ts'
import { initStore as initObjects, listRoots, type Root, readRootState } from './root.ts'
import { Snapshot, type SnapshotSource } from './snapshot.ts'
import { childSpec } from './snapshot-store/child.ts'
import type {
  ListOptions,
  OpenOptions,
  PushResult,
  SnapshotSummary,
  StorePushSpec,
  TagListing,
  TagOptions,
} from './snapshot-store/contract.ts'
import { OpenSnapshots } from './snapshot-store/open-snapshots.ts'
import { readThroughCache, type StoreParts } from './snapshot-store/parts.ts'
import { primeWarning, profileWarning } from './snapshot-store/warnings.ts'
import type { ReadFigures } from './stats.ts'
import { requireConditionalPut } from './store/check.ts'
import { openObjectStore } from './store/open.ts'
import type { CallOptions, ObjectStore } from './store.ts'
import { type Tag, Tags } from './tag.ts'
import { closeAll } from './util/close-all.ts'
import { type VerifyOptions, type VerifyReport, verifySnapshot } from './verify.ts'
import { CACHE_TIERS, type CacheTier, type WarmOptions, type WarmResult, warmSnapshot } from './warm.ts'

/** Times a push is done again because its root expired meanwhile: rotation takes hours, so once is already rare. */
const PUSH_ATTEMPTS_MAX = 3

/**
 * Makes a store, or completes one whose making was interrupted; a store that is there is left as it is.
 * @throws WRONG_KEY if the store was made with another keyring, UNSUPPORTED if its provider lacks conditional writes
 */
export async function initStore(
  url: string,
  { keyring, signal }: { readonly keyring: Keyring } & CallOptions,
): Promise<{ readonly created: boolean; readonly store: string; readonly root: string }> {
  await using objects = await openObjectStore(url)
  const there = await readIdentity(objects, { signal }).catch(error => {
    if (!isThawError(error, 'NOT_FOUND') || error.object !== 'store.json') throw error
    return undefined
  })
  if (there === undefined) await requireConditionalPut(objects, { signal })
  const { identity, roots } = await initObjects(objects, keyring, { signal })
  return { created: there === undefined, store: identity.storeId, root: roots[0]!.id }
}

/**
 * Opens a store: `file:///path`, a path, or `s3://bucket/prefix?endpoint=…&region=…` with AWS's default credential chain.
 * @throws NOT_FOUND if there is no store, WRONG_KEY if it was made with another keyring, DENIED, UNAVAILABLE, BAD_FORMAT
 */
export async function openStore(url: string, options: OpenOptions = {}): Promise<SnapshotStore> {
  const objects = await openObjectStore(url)
  try {
    return await openStoreOver(objects, options)
  } catch (error) {
    await objects.close()
    throw error
  }
}

/** As `openStore`, over an object store that is open; closing the one closes the other. */
export async function openStoreOver(objects: ObjectStore, options: OpenOptions): Promise<SnapshotStore> {
  const { signal, keyring, cache } = options
  const [identity, roots] = await Promise.all([readIdentity(objects, { signal }), listRoots(objects, { signal })])
  if (keyring !== undefined) await requireKinship(objects, identity, keyring)
  return new SnapshotStore(await readThroughCache(objects, cache), identity.storeId, roots, options)
}

/** Made by `openStore`. */
export class SnapshotStore implements AsyncDisposable {
  /** 32 hex digits. */
  readonly id: string
  readonly #objects: ObjectStore
  readonly #parts: StoreParts
  readonly #open: OpenSnapshots
  readonly #snapshots = new Set<Snapshot>()
  readonly #keyring: Keyring | undefined
  readonly #tags: Tags | undefined
  readonly #refs: Refs
  readonly #requireProfile: boolean
  #roots: readonly Root[]

  /** @internal */
  constructor(parts: StoreParts, id: string, roots: readonly Root[], { keyring, requireProfile }: OpenOptions) {
    const { objects } = parts
    this.id = id
    this.#objects = objects
    this.#parts = parts
    this.#open = new OpenSnapshots(parts.engine)
    this.#roots = roots
    this.#keyring = keyring
    this.#tags = keyring && new Tags(objects, keyring, id)
    this.#refs = new Refs(objects, keyring, this.#tags)
    this.#requireProfile = requireProfile ?? false
  }

  /** Names the store in messages; without credentials. */
  get url(): string {
    return this.#objects.url
  }

  /**
   * Seals and stores images as a new snapshot. Two pushes at once do not disturb each other; one that is interrupted leaves nothing visible, and sends only what is
   * missing when it is run again.
   * @throws RangeError, TypeError (also if it is to prime an L2 cache and there is none), NOT_FOUND (parent, file), CONFLICT (a file changed while it was read; the
   * tag was changed by someone else), WRONG_KEY, DENIED, NO_SPACE, UNAVAILABLE, TIMEOUT, UNSUPPORTED (profile)
   */
  async push(spec: StorePushSpec, options: PushOptions = {}): Promise<PushResult> {
    const startedAt = performance.now()
    const call = { signal: options.signal }
    if (options.prime) await this.#requireTiers(['l2'])
    if (spec.tag !== undefined) checkTagName(spec.tag)
    const parentRef = spec.parent === undefined ? undefined : await this.#refs.locate(spec.parent, this.#rootIds(), call)
    for (let attempt = 1; ; attempt++) {
      const root = this.#activeRoot()
      const warning = this.#profileWarning(root)
      const parent = parentRef && (await this.#read(parentRef, call))
      const pushed = await pushSnapshot({ ...this.#parts, keyring: this.#needKeyring(), root }, spec, parent, options)
      const state = await readRootState(this.#objects, root.id, call)
      if (state !== undefined && state.state !== 'expired') {
        const tag = spec.tag === undefined ? undefined : await this.#tagPushed({ tenant: spec.tenant, name: spec.tag }, pushed, call)
        const warnings = [warning, primeWarning(pushed)].filter(found => found !== undefined)
        return { ...pushed, tag, warnings, durationMs: performance.now() - startedAt }
      }
      if (attempt === PUSH_ATTEMPTS_MAX)
        throw new ThawError('CONFLICT', `root ${root.id} expired while the snapshot was pushed`, { object: root.id })
      this.#roots = await listRoots(this.#objects, call)
    }
  }

  async #tagPushed(tag: TagName, pushed: PushedSnapshot, options: CallOptions): Promise<TagListing> {
    try {
      return await this.#setTag(tag, pushed, options)
    } catch (cause) {
      if (!isThawError(cause)) throw cause
      throw new ThawError(cause.code, `${cause.message}; snapshot ${pushed.id} is published without it`, {
        cause,
        object: formatTagName(tag),
      })
    }
  }

  #activeRoot(): Root {
    const root = this.#roots[0]
    if (root?.current.state === 'active') return root
    throw new ThawError('NOT_FOUND', `${this.url} has no active root: run \`thaw init\``, { object: 'roots/' })
  }

  #profileWarning(root: Root): string | undefined {
    const warning = profileWarning(root)
    if (warning !== undefined && this.#requireProfile) throw new ThawError('UNSUPPORTED', warning, { object: root.id })
    return warning
  }

  /**
   * What a REF means: an id, a prefix of one, a tag (the platform's first, then that of the one tenant that has it), or TENANT//TAG.
   * @throws NOT_FOUND, CONFLICT if it is ambiguous, RangeError if it is no REF, CORRUPT if a tag cannot be trusted
   */
  resolve(ref: string, options: CallOptions = {}): Promise<ResolvedRef> {
    return this.#refs.resolve(ref, this.#rootIds(), options)
  }

  /** Opens a snapshot to read from. @throws as `resolve`, and WRONG_KEY, CORRUPT, BAD_FORMAT */
  async open(ref: string, options: CallOptions = {}): Promise<Snapshot> {
    const hint = await this.#refs.locate(ref, this.#rootIds(), options)
    const open = await this.#open.join(`${hint.id} ${hint.root}`, ({ signal }) => this.#read(hint, { signal }), options)
    const { cache, engine: store } = this.#parts
    const { stored, held } = open
    const push: SnapshotSource['push'] = (spec, call) => this.push(childSpec(stored, spec), call)
    const onClose = (): void => {
      open.release()
      this.#snapshots.delete(snapshot)
    }
    const source = { engine: cache.engine, pagers: cache.pagers, store, held, push, onClose }
    const snapshot: Snapshot = new Snapshot(source, stored)
    this.#snapshots.add(snapshot)
    return snapshot
  }

  /** What was read through the store's cache, by this store and others that share it. */
  stats(): Promise<ReadFigures> {
    return this.#parts.cache.stats()
  }

  async #openRef(ref: string, options: CallOptions): Promise<StoredSnapshot> {
    return await this.#read(await this.#refs.locate(ref, this.#rootIds(), options), options)
  }

  async #read({ id, root }: Hint, options: CallOptions): Promise<StoredSnapshot> {
    return await openSnapshot(this.#parts, this.#needKeyring(), id, this.#rootIds(root), options, this.#open.find(id))
  }

  /** Like `#read`, but undefined if there is no keyring, or it lacks the key. */
  async #openIfPossible(found: Location, options: CallOptions): Promise<StoredSnapshot | undefined> {
    if (this.#keyring === undefined) return undefined
    try {
      return await this.#read(found, options)
    } catch (error) {
      if (isThawError(error, 'WRONG_KEY')) return undefined
      throw error
    }
  }

  /**
   * The snapshots of all roots, in no particular order; each once.
   * @throws CORRUPT, BAD_FORMAT for one that cannot be read, unless `onBad` takes it
   */
  async *list(options: ListOptions = {}): AsyncGenerator<SnapshotSummary> {
    const tagsOf = new Map<string, TagName[]>()
    if (this.#tags !== undefined) {
      for await (const { snapshot, tenant, name } of this.#tags.listAll(options)) {
        const tags = tagsOf.get(snapshot) ?? []
        tags.push({ tenant, name })
        tagsOf.set(snapshot, tags)
      }
    }
    const seen = new Set<string>()
    for (const root of this.#rootIds()) {
      for await (const location of listSnapshots(this.#objects, root, options)) {
        if (seen.has(location.id)) continue
        seen.add(location.id)
        const summary = await this.#summarize(location, tagsOf.get(location.id) ?? [], options)
        if (summary !== undefined) yield summary
      }
    }
  }

  /** Undefined if the snapshot was removed since it was listed, or is bad. */
  async #summarize(location: Location, tags: readonly TagName[], { onBad, ...options }: ListOptions): Promise<SnapshotSummary | undefined> {
    try {
      const found = await findOutline(this.#objects, location.id, [location.root], options)
      const stored = await this.#openIfPossible(location, options)
      const details = stored && {
        tenant: stored.manifest.tenant,
        createdAt: new Date(stored.manifest.createdAtMs),
        labels: stored.manifest.labels,
        images: stored.manifest.images.map(({ name, kind, sizeBytes }) => ({ name, kind, sizeBytes })),
      }
      return { ...outlineFigures(found), tags, details }
    } catch (error) {
      if (isThawError(error, 'NOT_FOUND')) return undefined
      if (onBad === undefined || !isThawError(error, 'CORRUPT', 'BAD_FORMAT')) throw error
      onBad(location, error)
      return undefined
    }
  }

  /** The tags of the platform and of all tenants. @throws CORRUPT for one that cannot be trusted */
  async *tags(options: CallOptions = {}): AsyncGenerator<TagListing> {
    for await (const tag of this.#needTags().listAll(options)) yield listing(tag)
  }

  /** Makes a tag name a snapshot. @throws CONFLICT if it is not as `ifAbsent` or `expect` say, or someone else changed it at the same time */
  async tag(ref: string, tag: TagName, options: TagOptions = {}): Promise<TagListing> {
    return await this.#setTag(tag, await this.resolve(ref, options), options)
  }

  async #setTag(tag: TagName, { id, root }: Location, { ifAbsent, expect, signal }: TagOptions): Promise<TagListing> {
    return listing(await this.#needTags().write(tag, { snapshot: id, root }, { signal, expect: ifAbsent ? 'absent' : expect }))
  }

  /** Deletes a tag; the snapshot stays. @throws NOT_FOUND */
  async untag(tag: TagName, options: CallOptions = {}): Promise<void> {
    await this.#needTags().remove(tag, options)
  }

  /**
   * Removes a snapshot: its manifest, then its keys. Never chunks: others may share them, and a collector finds those nobody uses.
   * @throws CONFLICT if a tag names it, unless `force`
   */
  async remove(
    id: string,
    { force, ...options }: CallOptions & { readonly force?: boolean | undefined } = {},
  ): Promise<{ readonly id: string }> {
    const found = await this.resolve(id, options)
    if (!force) await this.#requireUntagged(found.id, options)
    await this.#objects.delete(manifestKey(found.root, found.id), options)
    await this.#objects.delete(wrappedKeysKey(found.root, found.id), options)
    return { id: found.id }
  }

  async #requireUntagged(id: string, options: CallOptions): Promise<void> {
    for await (const tag of this.#needTags().listAll(options)) {
      if (tag.snapshot !== id) continue
      const name = formatTagName(tag)
      throw new ThawError('CONFLICT', `tag ${name} names snapshot ${id}: untag it first`, { object: name })
    }
  }

  /** What a snapshot is. @throws as `resolve`, CORRUPT, BAD_FORMAT */
  async inspect(ref: string, options: CallOptions = {}): Promise<Inspection> {
    const { found, stored } = await this.#find(ref, options)
    return inspectSnapshot(found, stored)
  }

  /** What differs between two snapshots, from their manifests. @throws as `open` */
  async diff(a: string, b: string, options: CallOptions = {}): Promise<SnapshotDiff> {
    return diffSnapshots(await this.#openRef(a, options), await this.#openRef(b, options))
  }

  /** Checks everything a snapshot consists of; what is bad is in the report. @throws as `resolve`, UNAVAILABLE, TIMEOUT, DENIED */
  async verify(ref: string, options: VerifyOptions = {}): Promise<VerifyReport> {
    const { found, stored } = await this.#find(ref, options)
    return await verifySnapshot(this.#parts.engine, found, stored, options)
  }

  /**
   * Puts a snapshot's manifest and all its chunks into caches, verified, from the nearest tier that has them, while demands of others go first. Needs no key if `ref` is
   * an id. A cache that does not keep them is no error, but counted.
   * @throws as `resolve`; TypeError if the store is read through no cache of such a tier; CORRUPT, UNAVAILABLE, TIMEOUT, DENIED
   */
  async warm(ref: string, { tiers, ...options }: WarmOptions = {}): Promise<WarmResult> {
    const into = await this.#requireTiers(tiers)
    const location = await this.resolve(ref, options)
    const found = await findOutline(this.#objects, location.id, this.#rootIds(location.root), options)
    const { engine } = this.#parts
    return await warmSnapshot({ store: engine, tiers: into }, found, options)
  }

  /** The tiers that were chosen, by default all there are. */
  async #requireTiers(chosen: readonly CacheTier[] | undefined): Promise<readonly CacheTier[]> {
    const figures = await this.stats()
    const there = CACHE_TIERS.filter(tier => figures[tier] !== undefined)
    const missing = (chosen ?? CACHE_TIERS).filter(tier => !there.includes(tier))
    if (there.length === 0 || (chosen !== undefined && missing.length > 0)) {
      throw new TypeError(`the store is read through no cache of tier ${missing.join(' or ')}`)
    }
    return chosen ?? there
  }

  async #find(
    ref: string,
    { signal }: CallOptions,
  ): Promise<{ readonly found: FoundOutline; readonly stored: StoredSnapshot | undefined }> {
    const location = await this.resolve(ref, { signal })
    const found = await findOutline(this.#objects, location.id, this.#rootIds(location.root), { signal })
    return { found, stored: await this.#openIfPossible(found, { signal }) }
  }

  /** Ids of the roots in lookup order, the hinted one first. */
  #rootIds(hint?: string): string[] {
    const ids = this.#roots.map(root => root.id)
    return hint !== undefined && ids.includes(hint) ? [hint, ...ids.filter(id => id !== hint)] : ids
  }

  #needKeyring(): Keyring {
    return this.#keyring ?? needsKeyring()
  }

  #needTags(): Tags {
    return this.#tags ?? needsKeyring()
  }

  /** Ends what is under way, and closes the snapshots that are open: later calls reject with CLOSED. Idempotent. @throws as `Snapshot.close`, once all is closed */
  async close(): Promise<void> {
    const { objects, cache, engine, ownsCache } = this.#parts
    try {
      await closeAll(this.#snapshots)
    } finally {
      await engine.close()
      if (ownsCache) await cache.close()
      await objects.close()
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

function listing({ tenant, name, seq, snapshot, root, at }: Tag): TagListing {
  return { tenant, name, seq, snapshot, root, at }
}
