/**
 * Tags: names for snapshots, which can be moved, signed by a publisher (docs/FORMAT.md section 8; the entries themselves: `tag/entry.ts`).
 *
 * Invariants
 * - The newest entry counts alone. If that one is bad the tag is CORRUPT; no older one takes its place.
 * - Who has seen seq n here refuses less than n, or nothing at all: whoever may write to the store cannot roll a tag back under a running process.
 * - An update is a compare-and-swap and is never tried again on its own: of two at once one wins, the other is told CONFLICT.
 *
 * Nothing is cached: reading a tag is a listing and a get. Objects under a tag that are not named like entries are not read.
 */

import { DOCUMENT_BYTES_MAX, timestamp } from './document.ts'
import { isThawError, ThawError } from './errors.ts'
import type { Keyring } from './keys.ts'
import { PLATFORM_FOLDER, seqOfTag, TAGS_PREFIX, tagKey, tagPrefix, tenantTagsPrefix } from './layout.ts'
import { checkTagName, checkTenantName, decodeTagName, formatTagName, ID, SHORT_ID, type TagName, TENANT_NAME } from './names.ts'
import type { CallOptions, ObjectStore } from './store.ts'
import { openTagEntry, signTagEntry, type TagEntry } from './tag/entry.ts'

/** The newest entries are kept for whoever reads one while another is written. */
const ENTRIES_KEPT = 4
/** Old entries deleted after one write; the rest waits for the next. */
const PRUNED_MAX = 64
/** An entry may be pruned between listing and get only if four were written meanwhile. */
const READ_ATTEMPTS_MAX = 3
/** Tags whose newest seq is remembered, about 150 bytes each; the one not read for longest is forgotten. */
const TAGS_SEEN_MAX = 50_000

/** A tag that names a snapshot. */
export interface Tag extends TagEntry {
  readonly snapshot: string
}

export interface TagTarget {
  /** The snapshot's id. */
  readonly snapshot: string
  /** The root it lies in. */
  readonly root: string
}

export interface TagWriteOptions extends CallOptions {
  /** Write only if the tag names this snapshot now, or does not exist. Default: whatever it names, as long as nobody else writes meanwhile. */
  readonly expect?: string | 'absent' | undefined
}

/** The tags of one store, read and written with one keyring. */
export class Tags {
  readonly #store: ObjectStore
  readonly #keyring: Keyring
  readonly #storeId: string
  readonly #seen = new Map<string, number>()
  #signer: string | undefined

  constructor(store: ObjectStore, keyring: Keyring, storeId: string) {
    this.#store = store
    this.#keyring = keyring
    this.#storeId = storeId
  }

  /** What a tag names; undefined if there is no such tag, or it was deleted. CORRUPT: it cannot be trusted, or was rolled back. */
  async read(tag: TagName, options: CallOptions = {}): Promise<Tag | undefined> {
    checkTag(tag)
    return this.#read(tag, options)
  }

  /** Makes a tag name a snapshot, durably. CONFLICT: not as expected, or someone else wrote first. WRONG_KEY: a worker's keyring. */
  async write(tag: TagName, { snapshot, root }: TagTarget, { expect, ...options }: TagWriteOptions = {}): Promise<Tag> {
    checkTag(tag)
    if (!ID.test(snapshot) || !SHORT_ID.test(root)) throw new RangeError('a tag names the id of a snapshot and of a root')
    const newest = await this.#newest(tag, options)
    requireExpected(tag, newest?.snapshot, expect)
    const entry = await this.#append(tag, { seq: (newest?.seq ?? 0) + 1, snapshot, root }, options)
    return { ...entry, snapshot }
  }

  /** Deletes a tag, by a signed entry that says so. NOT_FOUND if there is none; otherwise as `write`. */
  async remove(tag: TagName, { expect, ...options }: TagWriteOptions = {}): Promise<void> {
    checkTag(tag)
    const newest = await this.#newest(tag, options)
    if (newest?.snapshot === undefined)
      throw new ThawError('NOT_FOUND', `there is no tag ${formatTagName(tag)}`, { object: formatTagName(tag) })
    requireExpected(tag, newest.snapshot, expect)
    await this.#append(tag, { seq: newest.seq + 1, snapshot: undefined, root: newest.root }, options)
  }

  /** The tags of one tenant, or (undefined) of the platform, ascending by encoded name. Rejects at the first that cannot be trusted. */
  async *list(tenant: string | undefined, options: CallOptions = {}): AsyncGenerator<Tag> {
    if (tenant !== undefined) checkTenantName(tenant)
    let batch: TagName[] = []
    for await (const segment of this.#store.listFolders(tenantTagsPrefix(tenant), options)) {
      const name = decodeTagName(segment)
      if (name !== undefined) batch.push({ tenant, name })
      if (batch.length < this.#store.concurrency) continue
      yield* await this.#readAll(batch, options)
      batch = []
    }
    yield* await this.#readAll(batch, options)
  }

  /** The tags of the platform and of every tenant. */
  async *listAll(options: CallOptions = {}): AsyncGenerator<Tag> {
    for await (const folder of this.#store.listFolders(TAGS_PREFIX, options)) {
      if (folder === PLATFORM_FOLDER) yield* this.list(undefined, options)
      else if (TENANT_NAME.test(folder)) yield* this.list(folder, options)
    }
  }

  async #read(tag: TagName, options: CallOptions): Promise<Tag | undefined> {
    const newest = await this.#newest(tag, options)
    return newest?.snapshot === undefined ? undefined : { ...newest, snapshot: newest.snapshot }
  }

  async #readAll(tags: readonly TagName[], options: CallOptions): Promise<Tag[]> {
    const read = await Promise.all(tags.map(tag => this.#read(tag, options)))
    return read.filter(tag => tag !== undefined)
  }

  /** The newest entry, trusted, a deletion too; undefined if the tag has never been. */
  async #newest(tag: TagName, options: CallOptions): Promise<TagEntry | undefined> {
    for (let attempt = 1; ; attempt++) {
      // Taken before the listing: another read may see more while this one is under way.
      const seen = this.#seen.get(tagPrefix(tag)) ?? 0
      const seq = (await this.#seqs(tag, options)).at(-1) ?? 0
      if (seq < seen) throw rolledBack(tag, seq, seen)
      if (seq === 0) return undefined
      try {
        const bytes = await this.#store.get(tagKey(tag, seq), { ...options, sizeMax: DOCUMENT_BYTES_MAX })
        const entry = await openTagEntry(this.#keyring, this.#storeId, tag, seq, bytes)
        this.#remember(tag, seq)
        return entry
      } catch (error) {
        if (!isThawError(error, 'NOT_FOUND')) throw error
        if (attempt === READ_ATTEMPTS_MAX) throw fleeting(tag, seq, error)
      }
    }
  }

  /** Numbers of the entries that are there, ascending. */
  async #seqs(tag: TagName, options: CallOptions): Promise<number[]> {
    const prefix = tagPrefix(tag)
    const seqs: number[] = []
    for await (const { key } of this.#store.list(prefix, options)) {
      const seq = seqOfTag(key, prefix)
      if (seq !== undefined) seqs.push(seq)
    }
    return seqs
  }

  async #append(tag: TagName, next: Pick<TagEntry, 'seq' | 'snapshot' | 'root'>, options: CallOptions): Promise<TagEntry> {
    const unsigned = { tenant: tag.tenant, name: tag.name, ...next, at: timestamp() }
    const { entry, bytes } = await signTagEntry(this.#keyring, this.#storeId, unsigned, this.#signer)
    this.#signer = entry.signer
    if (!(await this.#store.putIfAbsent(tagKey(tag, entry.seq), bytes, options))) throw lost(tag)
    // A writer that slept while four others wrote finds its number pruned and so free again, yet came too late.
    const seqs = await this.#seqs(tag, options)
    if ((seqs.at(-1) ?? 0) >= entry.seq + ENTRIES_KEPT) throw lost(tag)
    this.#remember(tag, entry.seq)
    await this.#prune(
      tag,
      seqs.filter(seq => seq <= entry.seq - ENTRIES_KEPT),
      options,
    )
    return entry
  }

  /** Best effort: the tag is written, and old entries that stay only make listings longer. */
  async #prune(tag: TagName, seqs: readonly number[], options: CallOptions): Promise<void> {
    await Promise.allSettled(seqs.slice(0, PRUNED_MAX).map(seq => this.#store.delete(tagKey(tag, seq), options)))
  }

  #remember(tag: TagName, seq: number): void {
    const prefix = tagPrefix(tag)
    const seen = Math.max(seq, this.#seen.get(prefix) ?? 0)
    this.#seen.delete(prefix)
    this.#seen.set(prefix, seen)
    if (this.#seen.size <= TAGS_SEEN_MAX) return
    for (const oldest of this.#seen.keys()) {
      this.#seen.delete(oldest)
      return
    }
  }
}

function checkTag({ tenant, name }: TagName): void {
  if (tenant !== undefined) checkTenantName(tenant)
  checkTagName(name)
}

function requireExpected(tag: TagName, found: string | undefined, expect: string | undefined): void {
  if (expect === undefined || expect === (found ?? 'absent')) return
  const now = found === undefined ? 'does not exist' : `names ${found}`
  throw new ThawError('CONFLICT', `tag ${formatTagName(tag)} ${now}, not what was expected (${expect})`, { object: formatTagName(tag) })
}

function lost(tag: TagName): ThawError {
  return new ThawError('CONFLICT', `tag ${formatTagName(tag)} was changed by someone else at the same time`, { object: formatTagName(tag) })
}

function fleeting(tag: TagName, seq: number, cause: unknown): ThawError {
  const message = `tag ${formatTagName(tag)} cannot be read: entry ${seq} is listed and then gone, again and again`
  return new ThawError('UNAVAILABLE', message, { cause, object: tagKey(tag, seq) })
}

function rolledBack(tag: TagName, seq: number, seen: number): ThawError {
  const message = `tag ${formatTagName(tag)} was rolled back: entry ${seen} was there, now ${seq === 0 ? 'none is' : `${seq} is the newest`}`
  return new ThawError('CORRUPT', message, { object: tagKey(tag, seen), tier: 'origin' })
}
