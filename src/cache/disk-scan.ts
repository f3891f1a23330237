/**
 * What lies in the folders of a disk cache. Names come from `readdir`, a folder at a time and in
 * slices, so that other work gets its turn in between; only files that nobody knows yet are looked at.
 */
import fs from 'node:fs'
import { ID } from '../names.ts'
import { ifThere, readdir } from '../store/directory-files.ts'
import { forEachAtOnce } from '../util/at-once.ts'
import type { Catalog } from './disk-catalog.ts'
import { type CacheFiles, FOLDERS } from './disk-files.ts'

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
  /** A larger file is no entry, and is removed. Default: nothing is. */
  readonly entryBytesMax?: number | undefined
}

/**
 * Makes `catalog` what the folders hold: what is gone is dropped, what is new is added as used last,
 * by its age. What comes or goes meanwhile may be missed until the next time. Raw errors of `node:fs`.
 */
export async function reconcile(
  files: CacheFiles,
  catalog: Catalog,
  { check, entryBytesMax = Number.POSITIVE_INFINITY }: LookOptions,
): Promise<void> {
  const now = Date.now()
  /** Rows of files that nobody knew, by age: see `ageClass`. */
  const found: number[][] = []
  catalog.beginLook()
  await forEachFolder(files, async (names, folder) => {
    for (const slice of slicesOf(names)) {
      const unknown = slice.filter(name => !catalog.saw(name) && isEntry(name, folder))
      await forEachAtOnce(unknown, LOOKS_AT_ONCE, async id => {
        const stats = await lstat(files.entryPath(id))
        if (stats?.isFile() !== true) return
        if (stats.size > entryBytesMax) return await files.remove(files.entryPath(id))
        const age = ageClass(now - stats.mtimeMs)
        found[age] ??= []
        found[age].push(catalog.add(id, stats.size))
      })
      await pause(check)
    }
    catalog.dropUnseen(Number.parseInt(folder, 16))
  })
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

/** Removes every entry, each after `onRemove` was told; resolves to how many there were. */
export async function removeEntries(files: CacheFiles, onRemove: (id: string) => void, check: () => void): Promise<number> {
  let removed = 0
  await forEachFolder(files, async (names, folder) => {
    check()
    const ids = names.filter(name => isEntry(name, folder))
    await forEachAtOnce(ids, UNLINKS_AT_ONCE, id => {
      onRemove(id)
      return files.remove(files.entryPath(id))
    })
    removed += ids.length
  })
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

/** Calls `visit` with what lies in each folder of entries, one after the other; a folder that is not there is empty. */
async function forEachFolder(files: CacheFiles, visit: (names: readonly string[], folder: string) => Promise<void>): Promise<void> {
  const there = new Set<string>()
  for (const entry of (await ifThere(readdir(files.root))) ?? []) if (entry.isDirectory()) there.add(entry.name)
  for (let number = 0; number < FOLDERS; number++) {
    const folder = number.toString(16).padStart(2, '0')
    await visit(there.has(folder) ? await namesIn(`${files.root}/${folder}`) : [], folder)
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
