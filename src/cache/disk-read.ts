/**
 * Reading entries: open, read into the caller's memory, close, by the callbacks of `node:fs`, of which nobody waits for the last.
 *
 * Deadline. Node cannot cut a system call that has begun, and memory must not be written after the call settled. So the deadline covers opening, which is
 * where a hung file system shows first and nothing was promised yet; once reading into the caller's memory has begun the call lasts as long as the
 * disk takes. Reading into memory of our own would be cut at any time, and cost every hit a copy. While an open that was given up has not come back,
 * calls fail at once: each of them would occupy one more of libuv's threads.
 */
import fs from 'node:fs'
import type { Allocate } from '../cache.ts'
import { ThawError } from '../errors.ts'
import { hasErrno, read } from '../store/directory-files.ts'
import type { Clock } from '../util/clock.ts'
import { diskError } from './disk-files.ts'

/** Far more than the four threads of libuv keep busy; a bound on descriptors and memory. */
const READS_MAX = 256

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
   * A file's bytes, or undefined if there is none. `sizeBytes`: its length as far as it is known. A file that turns out shorter is asked memory for once
   * more, by its true length. TIMEOUT, UNAVAILABLE or DENIED of the tier; what `allocate` throws passes through.
   */
  async read(
    path: string,
    sizeBytes: number | undefined,
    allocate: Allocate,
    signal: AbortSignal | undefined,
  ): Promise<Uint8Array | undefined> {
    if (this.hung) throw new ThawError('UNAVAILABLE', `the disk does not answer: ${path}`, { object: path, tier: 'disk' })
    this.#underWay++
    try {
      const fd = await this.#open(path)
      if (fd === undefined) return undefined
      try {
        signal?.throwIfAborted()
        return await readWhole(fd, path, sizeBytes, allocate)
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
      fs.open(path, 'r', (error, fd) => {
        callOff()
        if (givenUp) {
          this.#hung--
          if (error === null) fs.close(fd, ignore)
        } else if (error === null) resolve(fd)
        else if (hasErrno(error, 'ENOENT', 'ENOTDIR')) resolve(undefined)
        else reject(diskError(error, 'cannot open', path))
      })
    })
  }
}

async function readWhole(fd: number, path: string, known: number | undefined, allocate: Allocate): Promise<Uint8Array> {
  // Of an open file this is answered from memory.
  const sizeBytes = known ?? fs.fstatSync(fd).size
  const memory = allocate(sizeBytes)
  const length = await readInto(fd, path, memory, sizeBytes)
  if (length === sizeBytes) return memory.length === sizeBytes ? memory : memory.subarray(0, sizeBytes)
  const shorter = allocate(length)
  shorter.set(memory.subarray(0, length))
  return shorter.subarray(0, length)
}

async function readInto(fd: number, path: string, memory: Uint8Array, sizeBytes: number): Promise<number> {
  try {
    return await read(fd, memory, 0, sizeBytes, 0)
  } catch (error) {
    throw diskError(error, 'cannot read', path)
  }
}

function ignore(): void {}
