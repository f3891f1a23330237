/**
 * Files being written: `<store>/tmp/<pid>.<random>.<count>`, on the file system of the store, so that `rename` and `link` move them into place
 * whole. Nothing in the folder is part of the store.
 *
 * A process that dies leaves its files behind; the next one that writes sweeps them, once. The process id alone does not tell who is alive (other hosts and
 * containers have their own), so only old files go: after a day if no such process is seen here, after a week in any case.
 */
import { randomBytes } from 'node:crypto'
import fs from 'node:fs'
import { join } from 'node:path'
import { hasErrno, ifThere, open, readdir, stat, unlink, writeAll } from './directory-files.ts'
import { TEMPORARY } from './object-key.ts'

const HOUR_MS = 60 * 60 * 1000
const ABANDONED_AFTER_MS = 24 * HOUR_MS
const FORGOTTEN_AFTER_MS = 7 * 24 * HOUR_MS

export interface TempFile {
  readonly path: string
  /** Open for writing; whoever holds the TempFile closes it. */
  readonly fd: number
}

export class TempFolder {
  readonly #path: string
  readonly #makeFolder: () => Promise<void>
  readonly #mine = `${process.pid}.${randomBytes(6).toString('hex')}`
  #count = 0
  #sweeping: Promise<void> | undefined

  /** `makeFolder` creates the temporary folder when the first write finds none. */
  constructor(root: string, makeFolder: () => Promise<void>) {
    this.#path = join(root, TEMPORARY)
    this.#makeFolder = makeFolder
  }

  /** A new file holding `body`, not yet durable. Leaves nothing behind if it fails. Raw errors of `node:fs`. */
  async write(body: Uint8Array): Promise<TempFile> {
    const file = await this.#create()
    try {
      await writeAll(file.fd, body)
      return file
    } catch (error) {
      fs.closeSync(file.fd)
      await ifThere(unlink(file.path))
      throw error
    }
  }

  /** Resolves when a sweep that this object started is over. */
  async idle(): Promise<void> {
    await this.#sweeping
  }

  async #create(): Promise<TempFile> {
    const path = join(this.#path, `${this.#mine}.${this.#count++}`)
    try {
      return { path, fd: await open(path, 'wx') }
    } catch (error) {
      if (!hasErrno(error, 'ENOENT')) throw error
      await this.#makeFolder()
      return { path, fd: await open(path, 'wx') }
    } finally {
      this.#sweeping ??= this.#sweep()
    }
  }

  /** Best effort: a file that cannot be looked at or removed now is left to the next process. */
  async #sweep(): Promise<void> {
    const entries = await readdir(this.#path).catch(() => [])
    for (const entry of entries) {
      const path = join(this.#path, entry.name)
      const mtimeMs = await stat(path).then(
        stats => stats.mtimeMs,
        () => Number.POSITIVE_INFINITY,
      )
      const ageMs = Date.now() - mtimeMs
      const abandoned = ageMs > ABANDONED_AFTER_MS && !isAlive(Number.parseInt(entry.name, 10))
      if (abandoned || ageMs > FORGOTTEN_AFTER_MS) await unlink(path).catch(() => undefined)
    }
  }
}

function isAlive(pid: number): boolean {
  if (!(pid > 0)) return false
  try {
    return process.kill(pid, 0)
  } catch (error) {
    return !hasErrno(error, 'ESRCH')
  }
}
