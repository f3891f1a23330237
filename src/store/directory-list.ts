/**
 * Walks a directory store in the order of its keys, one folder in memory at a time. A folder sorts as its name with a `/` behind it, as its keys do:
 * `a.b` comes before `a/x`. Only regular files and folders count, and only names that can be part of a key.
 *
 * Others may write and remove meanwhile: what vanishes is left out.
 */
import { join } from 'node:path'
import type { ListedObject } from '../store.ts'
import { ifThere, readdir, stat } from './directory-files.ts'
import { compareKeys, folderOf, isKey } from './object-key.ts'

/** Files looked at together, to have their lengths. */
const STATS_AT_ONCE = 64

/** Objects whose keys start with `prefix`; `check` throws if the caller has given up. */
export async function* walk(root: string, prefix: string, check: () => void): AsyncGenerator<ListedObject> {
  let files: string[] = []
  for (const entry of await entriesOf(root, folderOf(prefix))) {
    if (!entry.startsWith(prefix)) continue
    check()
    const isFolder = entry.endsWith('/')
    if (!isFolder) files.push(entry)
    if (isFolder || files.length === STATS_AT_ONCE) {
      yield* withLengths(root, files)
      files = []
    }
    if (isFolder) yield* walk(root, entry, check)
  }
  yield* withLengths(root, files)
}

/** Names of the folders below `prefix` that hold an object at any depth. */
export async function* folders(root: string, prefix: string, check: () => void): AsyncGenerator<string> {
  for (const entry of await entriesOf(root, folderOf(prefix))) {
    check()
    if (entry.endsWith('/') && (await holdsObject(root, entry, check))) yield entry.slice(prefix.length, -1)
  }
}

async function holdsObject(root: string, folder: string, check: () => void): Promise<boolean> {
  for await (const _ of walk(root, folder, check)) return true
  return false
}

/** Keys of the files and, ending in `/`, of the folders of one folder, ascending. */
async function entriesOf(root: string, folder: string): Promise<string[]> {
  const entries: string[] = []
  for (const entry of (await ifThere(readdir(join(root, folder)))) ?? []) {
    const key = folder === '' ? entry.name : `${folder}/${entry.name}`
    if (!isKey(key)) continue
    if (entry.isFile()) entries.push(key)
    else if (entry.isDirectory()) entries.push(`${key}/`)
  }
  return entries.sort(compareKeys)
}

async function* withLengths(root: string, keys: readonly string[]): AsyncGenerator<ListedObject> {
  const found = await Promise.all(keys.map(key => ifThere(stat(join(root, key)))))
  for (const [index, key] of keys.entries()) {
    const stats = found[index]
    if (stats !== undefined) yield { key, sizeBytes: stats.size }
  }
}
