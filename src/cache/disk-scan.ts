/**
 * What lies in the folders of a disk cache. Names come from `readdir`, a folder at a time and in
 * slices, so that other work gets its turn in between; only files that nobody knows yet are looked at.
 */
import fs from 'node:fs'
import { ID } from '../names.ts'
import { ifThere, readdir } from '../store/directory-files.ts'
import { forEachAtOnce } from '../util/at-once.ts'
import type { Catalog } from './disk-catalog.ts'
import { type CacheFiles, FOLDERS, isUnreadable } from './disk-files.ts'

/** Names that are looked through without a pause: a fifth of a millisecond. */
const SLICE = 512
/** Of libuv's four threads, so that reads are never far behind. */
const LOOKS_AT_ONCE = 2
const UNLINKS_AT_ONCE = 16
/** Writing a file takes no tenth of this. */
const ABANDONED_MS = 600_000
const TEMPORARY = /^([1-9]\d*)\.[0-9a-f]{12}\.\d+$/

export interface LookOptions {
  /** Throws to end the look. */
  readonly check: () => void
  /**
   * A larger file is no entry. Such files are removed, and so is what cannot be read or has the name
   * of an entries' folder and is none. Default: nothing is removed.
   */
  readonly entryBytesMax?: number | undefined
}

/**
 * Makes `catalog` what the folders hold: what is gone is dropped, what is new is added as used last,
 * by its age. What comes or goes meanwhile may be missed until the next time. Raw errors of `node:fs`.
 */
export async function reconcile(files: CacheFiles, catalog: Catalog, { check, entryBytesMax }: LookOptions): Promise<void> {
  const now = Date.now()
  const remove = async (path: string): Promise<void> => {
    // What cannot be removed either is passed over, so that all else is looked after.
    if (entryBytesMax !== undefined) await files.remove(path).catch(() => undefined)
  }
  const passOver = async (path: string, error?: unknown): Promise<void> => {
    if (error !== undefined && !isUnreadable(error)) throw error
    await remove(path)
  }
  /** Rows of files that nobody knew, by age: see `ageClass`. */
  const found: number[][] = []
  catalog.beginLook()
  const visit = async (names: readonly string[], folder: string): Promise<void> => {
    for (const slice of slicesOf(names)) {
      const unknown = slice.filter(name => !catalog.saw(name) && isEntry(name, folder))
      await forEachAtOnce(unknown, LOOKS_AT_ONCE, async id => {
        const path = files.entryPath(id)
        const stats = await lstat(path).catch(error => passOver(path, error))
        if (stats?.isFile() !== true) return
        if (stats.size > (entryBytesMax ?? Number.POSITIVE_INFINITY)) return await remove(path)
        const age = ageClass(now - stats.mtimeMs)
        found[age] ??= []
        found[age].push(catalog.add(id, stats.size))
      })
      await pause(check)
    }
    catalog.dropUnseen(Number.parseInt(folder, 16))
  }
  await forEachFolder(files, visit, passOver)
  for (const rows of found.reverse()) {
    for (const slice of slicesOf(rows ?? [])) {
      for (const row of slice) catalog.touchRow(row)
      await pause(check)
    }
  }
}

/** Eighths of an octave, so that what is sorted by it needs no sorting: ages that differ by a tenth are told apart. */
function ageClass(ageMs: number): number {
  return Math.floor(8 * Math.log2(1 + Math.max(0, ageMs) / 1000))
}

/**
 * Removes every entry, each after `onRemove` was told; resolves to how many there were. What cannot be
 * removed is an error once all else is gone. Raw errors of `node:fs`, and what `check` throws.
 */
export async function removeEntries(files: CacheFiles, onRemove: (id: string) => void, check: () => void): Promise<number> {
  let removed = 0
  const failures: unknown[] = []
  const remove = async (id: string): Promise<void> => {
    onRemove(id)
    await files.remove(files.entryPath(id)).then(
      () => removed++,
      (error: unknown) => failures.push(error),
    )
  }
  const visit = async (names: readonly string[], folder: string): Promise<void> => {
    check()
    await forEachAtOnce(
      names.filter(name => isEntry(name, folder)),
      UNLINKS_AT_ONCE,
      remove,
    )
  }
  await forEachFolder(files, visit, async (_, error) => void (error === undefined || failures.push(error)))
  if (failures.length > 0) throw failures[0]
  return removed
}

/** Removes what processes that are gone left unfinished, and what could not be removed before. */
export async function removeAbandoned(files: CacheFiles): Promise<void> {
  for (const name of await namesIn(files.temporaryPath)) {
    const pid = TEMPORARY.exec(name)?.[1]
    const path = `${files.temporaryPath}/${name}`
    // A process of another container cannot be seen, and numbers are used again: then the file's age decides.
    if (pid === undefined || (isAlive(Number(pid)) && !(await isOlder(path, ABANDONED_MS)))) continue
    await remove(path).catch(() => undefined)
  }
}

/**
 * Calls `visit` with what lies in each folder of entries, one after the other. Empty is what is not
 * there, what is no folder, and what cannot be read; `passOver` is told of the last two, and may throw.
 */
async function forEachFolder(
  files: CacheFiles,
  visit: (names: readonly string[], folder: string) => Promise<void>,
  passOver: (path: string, error?: unknown) => Promise<void>,
): Promise<void> {
  const there = new Map(((await ifThere(readdir(files.root))) ?? []).map(entry => [entry.name, entry.isDirectory()]))
  for (let number = 0; number < FOLDERS; number++) {
    const folder = number.toString(16).padStart(2, '0')
    const path = `${files.root}/${folder}`
    const isFolder = there.get(folder)
    if (isFolder === false) await passOver(path)
    const names = isFolder ? await namesIn(path).catch(error => passOver(path, error)) : undefined
    await visit(names ?? [], folder)
  }
}

/** Files of others are left alone. */
function isEntry(name: string, folder: string): boolean {
  return name.startsWith(folder) && ID.test(name)
}

function* slicesOf<T>(all: readonly T[]): Generator<readonly T[]> {
  for (let from = 0; from < all.length; from += SLICE) yield all.slice(from, from + SLICE)
}

async function pause(check: () => void): Promise<void> {
  await new Promise(setImmediate)
  check()
}

async function isOlder(path: string, ms: number): Promise<boolean> {
  const stats = await lstat(path)
  return stats !== undefined && Date.now() - stats.mtimeMs > ms
}

/** A folder that was in an entry's place goes if it is empty. */
function remove(path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const done = (error: Error | null): void => (error === null ? resolve() : reject(error))
    fs.unlink(path, error => (error === null ? resolve() : fs.rmdir(path, done)))
  })
}

function lstat(path: string): Promise<fs.Stats | undefined> {
  return ifThere(
    new Promise((resolve, reject) => {
      fs.lstat(path, (error, stats) => (error === null ? resolve(stats) : reject(error)))
    }),
  )
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
