/**
 * Requests on their way from the thread that reads them to the one that answers them: a few buffers in shared memory, filled and emptied in turn. One thread at each end.
 *
 * The reader waits while all are full, so whoever answers slowly is ahead of by so many requests and no more. It rings a bell only for whoever went quiet, not for each request of
 * many. What the bell is, is not known here.
 */
import assert from 'node:assert/strict'

/** Buffers of a mount: 1 MiB each, of which only what requests filled is memory. A power of 2, because counts begin again at 2³². */
const SLOTS = 4

/** Words of `control`. */
const WORD = {
  /** Requests that were put and taken so far. */
  put: 0,
  taken: 1,
  /** 1: the bell was rung and not heard yet. */
  rung: 2,
  /** 1: nobody takes any more. */
  stopped: 3,
  /** Of the reader, one of STATE. */
  state: 4,
  /** Counts what the reader may wait for. */
  news: 5,
  /** Of the requests, by slot. */
  sizes: 6,
} as const

/** A reader that has not begun is not waiting for anything. */
const STATE = { notBegun: 0, running: 1, ended: 2 } as const

/** What both threads see. */
export interface RingMemory {
  readonly control: SharedArrayBuffer
  readonly requests: SharedArrayBuffer
}

/** What the thread is given that reads (request-thread.ts). */
export interface RequestThreadInput {
  /** /dev/fuse, mounted; not non-blocking. Stays the giver's, who closes it when the thread has ended. */
  readonly fd: number
  readonly ring: RingMemory
}

export class RequestRing {
  readonly memory: RingMemory
  readonly #words: Int32Array
  readonly #slots: readonly Buffer[]

  constructor(memory: RingMemory) {
    this.memory = memory
    this.#words = new Int32Array(memory.control)
    const slotBytes = memory.requests.byteLength / SLOTS
    this.#slots = Array.from({ length: SLOTS }, (_, slot) => Buffer.from(memory.requests, slot * slotBytes, slotBytes))
  }

  /** @param requestBytesMax of the largest request */
  static allocate(requestBytesMax: number): RequestRing {
    const control = new SharedArrayBuffer((WORD.sizes + SLOTS) * Int32Array.BYTES_PER_ELEMENT)
    return new RequestRing({ control, requests: new SharedArrayBuffer(SLOTS * requestBytesMax) })
  }

  get isStopped(): boolean {
    return Atomics.load(this.#words, WORD.stopped) !== 0
  }

  /** Of the reader: where the next request goes. Waits until there is room; undefined if nobody takes any more. */
  free(): Buffer | undefined {
    for (;;) {
      const news = Atomics.load(this.#words, WORD.news)
      if (this.isStopped) return undefined
      if (this.#count() < SLOTS) return this.#slots[slotOf(this.#words[WORD.put]!)]
      Atomics.wait(this.#words, WORD.news, news)
    }
  }

  /** Of the reader: what `free` gave is a request now. @returns whether the bell is to be rung */
  put(sizeBytes: number): boolean {
    const count = this.#words[WORD.put]!
    this.#words[WORD.sizes + slotOf(count)] = sizeBytes
    Atomics.store(this.#words, WORD.put, (count + 1) | 0)
    return Atomics.exchange(this.#words, WORD.rung, 1) === 0
  }

  /** Of the reader, first of all. */
  begin(): void {
    Atomics.store(this.#words, WORD.state, STATE.running)
  }

  /** Of the reader, last of all. */
  end(): void {
    Atomics.store(this.#words, WORD.state, STATE.ended)
    Atomics.notify(this.#words, WORD.state)
  }

  /** The bell was heard: the next request rings it again. To be called before one looks. */
  hush(): void {
    Atomics.store(this.#words, WORD.rung, 0)
  }

  /** Copies the oldest request to `target`, which has room for the largest. @returns its size, 0 if there is none */
  take(target: Uint8Array): number {
    if (this.#count() === 0) return 0
    const count = this.#words[WORD.taken]!
    const slot = slotOf(count)
    const sizeBytes = this.#words[WORD.sizes + slot]!
    assert(sizeBytes <= target.length)
    this.#slots[slot]!.copy(target, 0, 0, sizeBytes)
    Atomics.store(this.#words, WORD.taken, (count + 1) | 0)
    this.#tellReader()
    return sizeBytes
  }

  /** Nobody takes any more: the reader ends, if it does not wait for the kernel. Idempotent. */
  stop(): void {
    Atomics.store(this.#words, WORD.stopped, 1)
    this.#tellReader()
  }

  /** Holds this thread up until the reader has ended, if it has begun. @returns false if it still runs then */
  waitForEnd(timeoutMs: number): boolean {
    return Atomics.wait(this.#words, WORD.state, STATE.running, timeoutMs) !== 'timed-out'
  }

  #count(): number {
    return (Atomics.load(this.#words, WORD.put) - Atomics.load(this.#words, WORD.taken)) | 0
  }

  #tellReader(): void {
    Atomics.add(this.#words, WORD.news, 1)
    Atomics.notify(this.#words, WORD.news)
  }
}

function slotOf(count: number): number {
  return count & (SLOTS - 1)
}
