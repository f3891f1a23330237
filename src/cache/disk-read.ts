/**
 * Reading entries: open, read into the caller's memory, close, by the callbacks of `node:fs`, of which nobody waits for the last.
 *
 * Deadline. Node cannot cut a system call that has begun, and memory must not be written after the call settled. So the deadline covers opening, which is
 * where a hung file system shows first and nothing was promised yet; once reading into the caller's memory has begun the call lasts as long as the
 * disk takes. Reading into memory of our own would be cut at any time, and cost every hit a copy. While an open that was given up has not come back,
 * calls fail at once: each of them would occupy one more of libuv's threads.
 *
 * An entry that cannot be read (a bad sector, a file that is not ours to read, no file at all under that name) is CORRUPT like one whose bytes are
 * wrong: whoever asked evicts it, and a good copy takes its place.
 */
import fs from 'node:fs'
import type { Allocate } from '../cache.ts'
import { ThawError } from '../errors.ts'
import { hasErrno, read } from '../store/directory-files.ts'
import type { Clock } from '../util/clock.ts'
import { diskError, isUnreadable, openFile } from './disk-files.ts'

/** Far more than the four threads of libuv keep busy; a bound on descriptors and memory. */
const READS_MAX = 256
/** What is read at a time to be compared. */
const COMPARED_BYTES = 64 * 1024

export class Reads {
  readonly #clock: Clock
  readonly #timeoutMs: number
  #underWay = 0
  #hung = 0

  constructor(clock: Clock, timeoutMs: number) {
    this.#clock = clock
    this.#timeoutMs = timeoutMs
  }

  /** Whether a further read is one too many now. */
  get full(): boolean {
    return this.#underWay >= READS_MAX
  }

  /** Whether the disk has not answered for longer than the deadline. */
  get hung(): boolean {
    return this.#hung > 0
  }

  /**
   * A file's bytes, or undefined if there is none. A file that turns out shorter than it was when it was opened is asked memory for once more, by its true
   * length. CORRUPT, TIMEOUT, UNAVAILABLE or DENIED of the tier; what `allocate` throws passes through.
   */
  async read(path: string, allocate: Allocate, signal: AbortSignal | undefined): Promise<Uint8Array | undefined> {
    return await this.#opened(path, async (fd, sizeBytes) => {
      signal?.throwIfAborted()
      return await readWhole(fd, path, sizeBytes, allocate)
    })
  }

  /** Whether a file holds these bytes, all of which are read. Errors are those of `read`. */
  async holds(path: string, bytes: Uint8Array): Promise<boolean> {
    const same = await this.#opened(path, async (fd, sizeBytes) => sizeBytes === bytes.length && (await isEqual(fd, path, bytes)))
    return same ?? false
  }

  async #opened<T>(path: string, use: (fd: number, sizeBytes: number) => Promise<T>): Promise<T | undefined> {
    if (this.hung) throw new ThawError('UNAVAILABLE', `the disk does not answer: ${path}`, { object: path, tier: 'disk' })
    this.#underWay++
    try {
      const fd = await this.#open(path)
      if (fd === undefined) return undefined
      try {
        // Of an open file this is answered from memory.
        const stats = fs.fstatSync(fd)
        if (!stats.isFile()) throw unreadable(path, 'it is not a file')
        return await use(fd, stats.size)
      } finally {
        fs.close(fd, ignore)
      }
    } finally {
      this.#underWay--
    }
  }

  #open(path: string): Promise<number | undefined> {
    return new Promise((resolve, reject) => {
      let givenUp = false
      const callOff = this.#clock.after(this.#timeoutMs, () => {
        givenUp = true
        this.#hung++
        reject(new ThawError('TIMEOUT', `cannot read ${path}: no answer for ${this.#timeoutMs} ms`, { object: path, tier: 'disk' }))
      })
      const done = (error: unknown, fd: number | undefined): void => {
        callOff()
        if (givenUp) {
          this.#hung--
          if (fd !== undefined) fs.close(fd, ignore)
        } else if (fd !== undefined) resolve(fd)
        else if (hasErrno(error, 'ENOENT', 'ENOTDIR')) resolve(undefined)
        else reject(readError(error, path))
      }
      openFile(path).then(
        fd => done(undefined, fd),
        error => done(error, undefined),
      )
    })
  }
}

async function readWhole(fd: number, path: string, sizeBytes: number, allocate: Allocate): Promise<Uint8Array> {
  const memory = allocate(sizeBytes)
  const length = await readInto(fd, path, memory, sizeBytes, 0)
  if (length === sizeBytes) return memory.length === sizeBytes ? memory : memory.subarray(0, sizeBytes)
  const shorter = allocate(length)
  shorter.set(memory.subarray(0, length))
  return shorter.subarray(0, length)
}

async function isEqual(fd: number, path: string, bytes: Uint8Array): Promise<boolean> {
  const piece = Buffer.allocUnsafe(Math.min(COMPARED_BYTES, bytes.length))
  for (let at = 0; at < bytes.length; at += COMPARED_BYTES) {
    const expected = bytes.subarray(at, at + COMPARED_BYTES)
    const length = await readInto(fd, path, piece, expected.length, at)
    if (piece.compare(expected, 0, expected.length, 0, length) !== 0) return false
  }
  return true
}

async function readInto(fd: number, path: string, memory: Uint8Array, sizeBytes: number, position: number): Promise<number> {
  try {
    return await read(fd, memory, 0, sizeBytes, position)
  } catch (error) {
    throw readError(error, path)
  }
}

function readError(error: unknown, path: string): unknown {
  if (isUnreadable(error)) return unreadable(path, (error as NodeJS.ErrnoException).code!, error)
  return diskError(error, 'cannot read', path)
}

function unreadable(path: string, why: string, cause?: unknown): ThawError {
  return new ThawError('CORRUPT', `${path} cannot be read: ${why}`, { object: path, tier: 'disk', cause })
}

function ignore(): void {}
