/**
 * What people write to mean a snapshot: an id, the start of one, a tag, or TENANT//TAG; and where that leads.
 */
import { ThawError } from './errors.ts'
import { findByPrefix, findOutline, type Location } from './find.ts'
import type { Keyring } from './keys.ts'
import { formatTagName, parseRef, type TagName } from './names.ts'
import type { CallOptions, ObjectStore } from './store.ts'
import type { Tag, Tags } from './tag.ts'

/** What a REF led to. */
export interface ResolvedRef extends Location {
  /** The tag, if it was one. */
  readonly tag: TagName | undefined
}

/** A snapshot that may or may not be there, and a root to look in first. */
export interface Hint {
  /** Hex. */
  readonly id: string
  readonly root?: string
}

export class Refs {
  readonly #objects: ObjectStore
  readonly #keyring: Keyring | undefined
  readonly #tags: Tags | undefined

  /** Without a keyring (and so without tags) only ids can be resolved. */
  constructor(objects: ObjectStore, keyring: Keyring | undefined, tags: Tags | undefined) {
    this.#objects = objects
    this.#keyring = keyring
    this.#tags = tags
  }

  /**
   * A tag without a tenant is the platform's, or else that of the one tenant, among those whose keys the keyring holds, that has it.
   * @param roots in lookup order.
   * @throws NOT_FOUND, CONFLICT if it is ambiguous, RangeError if it is no REF, CORRUPT if a tag cannot be trusted
   */
  async resolve(ref: string, roots: readonly string[], options: CallOptions): Promise<ResolvedRef> {
    const parsed = parseRef(ref)
    if (parsed.kind === 'tag') return await this.#resolveTag(ref, parsed, options)
    if (parsed.kind === 'prefix') return { ...(await findByPrefix(this.#objects, parsed.prefix, roots, options)), tag: undefined }
    const { id, root } = await findOutline(this.#objects, parsed.id, roots, options)
    return { id, root, tag: undefined }
  }

  /** Like `resolve`, but takes an id at its word: opening it is one round trip, and tells whether it is there. */
  async locate(ref: string, roots: readonly string[], options: CallOptions): Promise<Hint> {
    const parsed = parseRef(ref)
    return parsed.kind === 'id' ? parsed : await this.resolve(ref, roots, options)
  }

  async #resolveTag(ref: string, { tenant, name }: TagName, options: CallOptions): Promise<ResolvedRef> {
    const tags = this.#tags ?? needsKeyring()
    const exact = await tags.read({ tenant, name }, options)
    if (exact !== undefined) return led(exact)
    const found = tenant === undefined ? await this.#ofTenants(tags, name, options) : []
    const [first, ...others] = found
    if (first === undefined) throw new ThawError('NOT_FOUND', `no tag ${ref} in ${this.#objects.url}`, { object: ref })
    if (others.length === 0) return led(first)
    const names = found.map(formatTagName).join(', ')
    throw new ThawError('CONFLICT', `several tenants have a tag ${ref}: name one exactly (${names})`, { object: ref })
  }

  async #ofTenants(tags: Tags, name: string, options: CallOptions): Promise<Tag[]> {
    const found: Tag[] = []
    for (const tenant of (await this.#keyring?.tenants()) ?? []) {
      const tag = await tags.read({ tenant, name }, options)
      if (tag !== undefined) found.push(tag)
    }
    return found
  }
}

function led({ snapshot, root, tenant, name }: Tag): ResolvedRef {
  return { id: snapshot, root, tag: { tenant, name } }
}

export function needsKeyring(): never {
  throw new ThawError('WRONG_KEY', 'this needs a keyring: give one with --keyring, THAW_KEYRING or in the config file')
}
