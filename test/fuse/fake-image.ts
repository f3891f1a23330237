/** An image in memory whose reads can be made to wait. */
import assert from 'node:assert/strict'
import type { ErrorCode } from '../../src/errors.ts'
import { callLater } from '../../src/pager/call-later.ts'
import type { CalledLater, Gathered, ReadCallbacks, ServedImage, Stretch, WriteCallbacks } from '../../src/pager.ts'

const PAGE_BYTES = 4096

export interface FakeImage extends ServedImage {
  readonly bytes: Buffer
  /** Whether requests wait until `answer`. */
  isHeld: boolean
  /** Answers all that wait; with an error if there is a code. */
  answer(code?: ErrorCode): void
  readonly cancelled: unknown[]
  isDamaged: boolean
  /** Offsets and lengths of what was lost. */
  readonly lost: [number, number][]
}

export function fakeImage(name: string, bytes: Buffer, isWritable = false): FakeImage {
  const waiting = new Map<unknown, { readonly who: CalledLater; readonly work: (code?: ErrorCode) => void }>()
  const cancelled: unknown[] = []
  const lost: [number, number][] = []
  const stretch: Stretch = { isZero: false, pages: 0 }
  const pageCount = Math.ceil(bytes.length / PAGE_BYTES)
  const isZero = (page: number): boolean => bytes.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES).every(byte => byte === 0)
  const perform = (who: CalledLater, work: (code?: ErrorCode) => void): void => {
    if (image.isHeld) waiting.set(who, { who, work })
    else work()
  }
  const change = (offset: number, sizeBytes: number, callbacks: WriteCallbacks, work: () => void): void => {
    assert(offset >= 0 && sizeBytes > 0 && offset + sizeBytes <= bytes.length)
    work()
    perform(callbacks, code => (code === undefined ? callbacks.onWritten() : callbacks.onWriteFailed(code)))
  }
  const image: FakeImage = {
    name,
    bytes,
    isWritable,
    cancelled,
    pageCount,
    kind: 'memory',
    sizeBytes: bytes.length,
    isHeld: false,
    read(offset: number, sizeBytes: number, callbacks: ReadCallbacks) {
      assert(offset >= 0 && sizeBytes > 0 && offset + sizeBytes <= bytes.length)
      const found = bytes.subarray(offset, offset + sizeBytes)
      perform(callbacks, code => (code === undefined ? callbacks.onBytes(gathered(found)) : callbacks.onReadFailed(code)))
    },
    write: (offset, data, callbacks) => change(offset, data.length, callbacks, () => void bytes.set(data, offset)),
    zero: (offset, sizeBytes, callbacks) => change(offset, sizeBytes, callbacks, () => void bytes.fill(0, offset, offset + sizeBytes)),
    cancel(who) {
      cancelled.push(who)
      waiting.delete(who)
    },
    stretch(page) {
      stretch.isZero = isZero(page)
      stretch.pages = 1
      return stretch
    },
    get dataPages() {
      return Array.from({ length: pageCount }, (_, page) => page).filter(page => !isZero(page)).length
    },
    isDamaged: false,
    lost,
    lose(offset, sizeBytes) {
      lost.push([offset, sizeBytes])
      image.isDamaged = true
    },
    answer(code) {
      const all = [...waiting.values()]
      waiting.clear()
      for (const { who, work } of all) callLater(who, () => work(code))
    },
  }
  return image
}

function gathered(bytes: Buffer): Gathered {
  return {
    sizeBytes: bytes.length,
    vectors: Buffer.alloc(0),
    vectorCount: 1,
    setHeader: () => undefined,
    copyTo: target => bytes.copy(target),
  }
}
