/**
 * What lies in the folders of a disk cache. Names come from `readdir`, a folder at a time, so that other work gets its turn in between; only files that
 * nobody knows yet are looked at, which for a hundred thousand is most of the time that opening takes.
 */
import fs from 'node:fs'
import { ID } from '../names.ts'
import { ifThere, unlink } from '../store/directory-files.ts'
import { forEachAtOnce } from '../util/at-once.ts'
import type { CacheFiles } from './disk-files.ts'
import type { Order } from './disk-order.ts'

/** `00` to `ff`. */
const FOLDER = /^[0-9a-f]{2}$/
const FOLDERS_AT_ONCE = 4
const UNLINKS_AT_ONCE = 16

/** A file that is not in the order yet. */
interface Stranger {
  readonly id: string
  readonly sizeBytes: number
  readonly mtimeMs: number
}

/**
 * Makes `order` what the folders hold: what is gone is dropped, what is new is added as used last, by its time of writing. What comes or goes meanwhile may be
 * missed until the next time. Raw errors of `node:fs`.
 */
export async function reconcile(files: CacheFiles, order: Order, check: () => void): Promise<void> {
  const before = order.entries
  const known: string[] = []
  const strangers: Stranger[] = []
  await forEachFolder(files, (names, folder) => {
    check()
    for (const name of names) {
      if (order.has(name)) known.push(name)
      else if (isEntry(name, folder)) look(files, name, strangers)
    }
  })
  if (known.length < before) dropOthers(order, new Set(known))
  strangers.sort((a, b) => a.mtimeMs - b.mtimeMs)
  for (const { id, sizeBytes } of strangers) if (!order.has(id)) order.add(id, sizeBytes)
}

/** An entry that was added after its folder was listed is dropped too, and comes back as a stranger the next time. */
function dropOthers(order: Order, there: ReadonlySet<string>): void {
  for (const [id] of order.oldestFirst()) if (!there.has(id)) order.drop(id)
}

/** Removes every entry; resolves to how many were there. */
export async function removeEntries(files: CacheFiles, check: () => void): Promise<number> {
  let removed = 0
  await forEachFolder(files, async (names, folder) => {
    check()
    const ids = names.filter(name => isEntry(name, folder))
    await forEachAtOnce(ids, UNLINKS_AT_ONCE, id => unlinkIfThere(files.entryPath(id)))
    removed += ids.length
  })
  return removed
}

/**
 * Removes what processes that are gone left unfinished. A process that cannot be seen from here (another container's) only fails to keep the entry it
 * was writing.
 */
export async function removeAbandoned(files: CacheFiles): Promise<void> {
  for (const name of await namesIn(files.temporaryPath)) {
    const pid = /^([1-9]\d*)\.[0-9a-f]{12}\.\d+$/.exec(name)?.[1]
    if (pid !== undefined && !isAlive(Number(pid))) await unlinkIfThere(`${files.temporaryPath}/${name}`)
  }
}

export async function unlinkIfThere(path: string): Promise<void> {
  await ifThere(unlink(path))
}

/** Calls `visit` with what lies in each folder of entries. */
async function forEachFolder(files: CacheFiles, visit: (names: readonly string[], folder: string) => void | Promise<void>): Promise<void> {
  const folders = (await namesIn(files.root)).filter(name => FOLDER.test(name))
  await forEachAtOnce(folders, FOLDERS_AT_ONCE, async folder => visit(await namesIn(`${files.root}/${folder}`), folder))
}

/** Files of others are left alone. */
function isEntry(name: string, folder: string): boolean {
  return name.startsWith(folder) && ID.test(name)
}

function look(files: CacheFiles, id: string, strangers: Stranger[]): void {
  const stats = fs.statSync(files.entryPath(id), { throwIfNoEntry: false })
  if (stats?.isFile() === true) strangers.push({ id, sizeBytes: stats.size, mtimeMs: stats.mtimeMs })
}

async function namesIn(folder: string): Promise<string[]> {
  const names = new Promise<string[]>((resolve, reject) => {
    fs.readdir(folder, (error, found) => (error === null ? resolve(found) : reject(error)))
  })
  return (await ifThere(names)) ?? []
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch (error) {
    return !(error instanceof Error && 'code' in error && error.code === 'ESRCH')
  }
}
