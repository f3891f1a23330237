/**
 * The folders of a directory store: made when needed, removed when empty, and synced when something in them must last.
 *
 * An entry is durable when its folder is synced, and that folder's own entry in the one above, and so on. Another process may have made any of them and
 * died before it synced, so each sync takes the whole chain up to the store's folder: a handful more for hundreds of chunks.
 */
import { dirname, join } from 'node:path'
import { forEachAtOnce } from '../util/at-once.ts'
import { makeFolders } from '../util/make-folders.ts'
import { ifThere, rmdir, syncFolder } from './directory-files.ts'
import { folderOf } from './object-key.ts'

/** More than libuv's four threads, in case UV_THREADPOOL_SIZE is larger. */
const SYNC_PARALLEL_MAX = 16

export class Folders {
  readonly #root: string
  /** Folders below the root whose entries await a sync; the empty string is the root. */
  #touched = new Set<string>()
  /** Folders above the root that got a new entry because the store was made. */
  readonly #above = new Set<string>()

  constructor(root: string) {
    this.#root = root
  }

  /** The next `sync` includes the folder of this key. */
  touch(key: string): void {
    this.#touched.add(folderOf(key))
  }

  /** Makes a folder of the store, given relative to its root, and all above it. */
  async make(folder: string): Promise<void> {
    const made = await makeFolders(join(this.#root, folder))
    if (made === undefined || made.length > this.#root.length) return
    const top = dirname(made)
    let above = this.#root
    do {
      above = dirname(above)
      this.#above.add(above)
    } while (above !== top)
  }

  /** Removes folders that a removed object left empty, as far up as they are. Best effort: another writer may be faster. */
  async prune(key: string): Promise<void> {
    for (let folder = folderOf(key); folder !== ''; folder = folderOf(folder)) {
      const removed = await rmdir(join(this.#root, folder)).then(
        () => true,
        () => false,
      )
      if (!removed) return
    }
  }

  /** Makes the entries of all touched folders durable. What was touched stays so if it fails. */
  async sync(): Promise<void> {
    const touched = this.#touched
    this.#touched = new Set()
    try {
      await this.#sync(touched)
    } catch (error) {
      for (const folder of touched) this.#touched.add(folder)
      throw error
    }
  }

  /** Makes the entry of one key durable, and no more. */
  syncOf(key: string): Promise<void> {
    return this.#sync(new Set([folderOf(key)]))
  }

  async #sync(folders: ReadonlySet<string>): Promise<void> {
    const paths = [...withAncestors(folders)].map(folder => join(this.#root, folder))
    const above = [...this.#above]
    // A folder that is gone holds nothing that must last: whoever removed the object removed it.
    await forEachAtOnce([...paths, ...above], SYNC_PARALLEL_MAX, async path => ifThere(syncFolder(path)), { keepGoing: true })
    for (const path of above) this.#above.delete(path)
  }
}

function withAncestors(folders: ReadonlySet<string>): Set<string> {
  const all = new Set<string>()
  for (let folder of folders) {
    while (!all.has(folder)) {
      all.add(folder)
      folder = folderOf(folder)
    }
  }
  return all
}
