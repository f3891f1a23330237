/** An image in plain memory for sessions: pages can be missing until a test says that they have come, or cannot be had. */
import { PAGE_BYTES } from '../../src/chunk.ts'
import type { ErrorCode } from '../../src/errors.ts'
import { callLater } from '../../src/pager/call-later.ts'
import type { Gathered, ReadCallbacks, ServedImage, Stretch, WriteCallbacks } from '../../src/pager.ts'

interface Waiting {
  readonly page: number
  readonly callbacks: ReadCallbacks | WriteCallbacks
  succeed(): void
  fail(code: ErrorCode | undefined): void
}

export class FakeImage implements ServedImage {
  readonly name = 'rootfs'
  readonly kind = 'disk'
  readonly bytes: Buffer
  readonly isWritable: boolean
  /** Reads and part writes that touch them wait. */
  readonly missing = new Set<number>()
  waiting: Waiting[] = []
  reads = 0
  /** The next write fails so. */
  writeError: ErrorCode | undefined

  constructor(bytes: Buffer, isWritable = false) {
    this.bytes = bytes
    this.isWritable = isWritable
  }

  get sizeBytes(): number {
    return this.bytes.length
  }

  get pageCount(): number {
    return Math.ceil(this.bytes.length / PAGE_BYTES)
  }

  read(offset: number, sizeBytes: number, callbacks: ReadCallbacks): void {
    this.reads++
    const succeed = (): void => callbacks.onBytes(gathered(this.bytes.subarray(offset, offset + sizeBytes)))
    this.#orWait(offset, sizeBytes, { callbacks, succeed, fail: code => callbacks.onReadFailed(code) })
  }

  write(offset: number, bytes: Uint8Array, callbacks: WriteCallbacks): void {
    const error = this.writeError
    this.writeError = undefined
    if (error !== undefined) {
      callbacks.onWriteFailed(error)
      return
    }
    const copy = Buffer.from(bytes)
    const succeed = (): void => {
      this.bytes.set(copy, offset)
      callbacks.onWritten()
    }
    this.#orWait(offset, bytes.length, { callbacks, succeed, fail: code => callbacks.onWriteFailed(code) })
  }

  zero(offset: number, sizeBytes: number, callbacks: WriteCallbacks): void {
    this.bytes.fill(0, offset, offset + sizeBytes)
    callbacks.onWritten()
  }

  cancel(who: ReadCallbacks | WriteCallbacks): void {
    this.waiting = this.waiting.filter(({ callbacks }) => callbacks !== who)
  }

  /** A missing page comes, or cannot be had: with a code. */
  settle(page: number, failure?: { readonly code: ErrorCode | undefined }): void {
    const ours = this.waiting.filter(item => item.page === page)
    this.waiting = this.waiting.filter(item => item.page !== page)
    if (failure === undefined) this.missing.delete(page)
    for (const { callbacks, succeed, fail } of ours) callLater(callbacks, () => (failure === undefined ? succeed() : fail(failure.code)))
  }

  stretch(page: number): Stretch {
    const isZero = this.#isZero(page)
    let pages = 1
    while (page + pages < this.pageCount && this.#isZero(page + pages) === isZero) pages++
    return { isZero, pages }
  }

  #isZero(page: number): boolean {
    return this.bytes.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES).every(byte => byte === 0)
  }

  #orWait(offset: number, sizeBytes: number, { callbacks, succeed, fail }: Omit<Waiting, 'page'>): void {
    const end = offset + sizeBytes
    const page = [...this.missing].find(missing => missing * PAGE_BYTES < end && (missing + 1) * PAGE_BYTES > offset)
    if (page === undefined) succeed()
    else this.waiting.push({ page, callbacks, succeed, fail })
  }

  isDamaged = false

  get dataPages(): number {
    return this.pageCount
  }

  lose(): void {}
}

function gathered(bytes: Buffer): Gathered {
  return {
    sizeBytes: bytes.length,
    vectors: Buffer.alloc(32),
    vectorCount: 2,
    setHeader: () => undefined,
    copyTo: (target, from = 0) => bytes.copy(target, 0, from),
  }
}
