/**
 * Which chunks of a domain are there already. Each question costs a round trip on S3 and a system call in a directory, so the domain is listed first, once: where one page holds all of it,
 * what is not on it need not be asked for.
 *
 * A chunk that comes after the listing is written again: content names make that harmless.
 */
import { chunkKey, chunksPrefix } from '../layout.ts'
import type { Sealed } from '../seal.ts'
import type { CallOptions, ObjectStore } from '../store.ts'

/** Keys of one S3 page: more would cost a second round trip before the first chunk. */
const LISTED_MAX = 1000

/** Where new chunks go. */
export interface Destination {
  readonly objects: ObjectStore
  readonly root: string
  readonly domain: string
}

export class Presence {
  readonly #destination: Destination
  #listed: Promise<ReadonlySet<string> | undefined> | undefined

  constructor(destination: Destination) {
    this.#destination = destination
  }

  /** Whether the store has the chunk with all its bytes, as far as the store can tell without reading it. */
  async has(id: string, chunk: Sealed, options: CallOptions): Promise<boolean> {
    const { objects, root, domain } = this.#destination
    const key = chunkKey(root, domain, id)
    this.#listed ??= this.#list(options)
    if ((await this.#listed)?.has(key) === false) return false
    const head = await objects.head(key, options)
    if (head?.sizeBytes !== chunk.sizeBytes) return false
    return !objects.headGivesSha256 || (head.sha256 !== undefined && Buffer.from(head.sha256).equals(chunk.id))
  }

  /** All keys of the domain; undefined if they are more than a page. */
  async #list(options: CallOptions): Promise<ReadonlySet<string> | undefined> {
    const { objects, root, domain } = this.#destination
    const keys = new Set<string>()
    for await (const { key } of objects.list(chunksPrefix(root, domain), options)) {
      keys.add(key)
      if (keys.size === LISTED_MAX) return undefined
    }
    return keys
  }
}
