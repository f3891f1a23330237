/**
 * A file descriptor and its one owner. The kernel gives a number away again at once: who closes twice, or hands on a number that was closed, reaches a file of somebody else's.
 */
import assert from 'node:assert/strict'
import { closeSync } from 'node:fs'

const GONE = -1

export class Descriptor {
  #fd: number

  /** @param fd open, and from now on this object's */
  constructor(fd: number) {
    assert(fd >= 0)
    this.#fd = fd
  }

  /** The number, for as long as it is open. Asking later is a bug, and throws. */
  get fd(): number {
    assert(this.#fd !== GONE, 'the descriptor is closed')
    return this.#fd
  }

  /** Hands it to another owner. */
  release(): number {
    const { fd } = this
    this.#fd = GONE
    return fd
  }

  /** Idempotent. */
  close(): void {
    if (this.#fd !== GONE) closeSync(this.release())
  }
}
