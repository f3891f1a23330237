/**
 * Reads and writes while they are under way. Their objects are used again and again, so a request whose bytes are in memory costs none; one that has to wait is found by its
 * number, for the kernel may say that whoever asked was interrupted.
 */
import { PAGE_BYTES } from '../../chunk.ts'
import type { ErrorCode } from '../../errors.ts'
import type { Gathered, PagerLoop, ReadCallbacks, WriteCallbacks } from '../../pager.ts'
import { ERRNO } from '../../util/native.ts'
import { errnoOf } from '../errno.ts'
import type { Answers, Unique } from './device.ts'
import { isDying } from './dying.ts'
import { WRITE_OUT_BYTES } from './protocol.ts'
import type { FileNode } from './tree.ts'

/** Requests that may wait at a time. With that many no more are read until one is answered: each is a thread of somebody that waits, or one of the kernel's own. */
export const WAITING_MAX = 1024
/** How often a thread that was interrupted, and lives on, is looked at again: it may be killed later. */
const LOOK_AGAIN_MS = 200

/** Whoever has requests. */
export interface RequestOwner {
  readonly answers: Answers
  readonly loop: Pick<PagerLoop, 'after'>
  /** A read got an error in place of bytes. */
  onUnreadable(file: FileNode, page: number, code: ErrorCode | undefined): void
  /** Bytes of the page cache could not be written: the kernel forgets that they were. */
  onLost(file: FileNode, offset: number, sizeBytes: number, code: ErrorCode | undefined): void
  /** There is room for another request, and was none before. */
  onRoom(): void
  /** Something was thrown while a request that had waited was answered: a bug. */
  onBroken(error: unknown): void
}

/** Done, and nothing to say; or how many bytes were written. */
type WriteAnswer = 'empty' | 'size'

export class Request implements ReadCallbacks, WriteCallbacks, Unique {
  low = 0
  high = 0
  thread = 0
  file: FileNode | undefined
  /** For whoever is told that it failed. */
  offset = 0
  sizeBytes = 0
  answer: WriteAnswer = 'empty'
  /** Writes what the kernel had collected. */
  isWriteBack = false
  isWaiting = false
  isOver = true
  /** Takes the next look at an interrupted thread back. */
  stopLooking: (() => void) | undefined
  readonly #requests: Requests

  constructor(requests: Requests) {
    this.#requests = requests
  }

  /** Of numbers that the kernel counts up by two: exact for longer than a machine lives. */
  get key(): number {
    return this.low + this.high * 2 ** 32
  }

  onBytes(bytes: Gathered): void {
    this.#requests.answers.sendGathered(this, bytes)
    this.#requests.end(this)
  }

  onReadFailed(code: ErrorCode | undefined): void {
    this.#requests.fail(this, code)
  }

  onWritten(): void {
    this.#requests.done(this)
  }

  onWriteFailed(code: ErrorCode | undefined): void {
    this.#requests.failWrite(this, code)
  }

  onBroken(error: unknown): void {
    this.#requests.onBroken(error)
  }
}

export class Requests {
  readonly answers: Answers
  readonly #owner: RequestOwner
  readonly #free: Request[] = []
  readonly #waiting = new Map<number, Request>()

  constructor(owner: RequestOwner) {
    this.#owner = owner
    this.answers = owner.answers
  }

  get isFull(): boolean {
    return this.#waiting.size >= WAITING_MAX
  }

  get waitingCount(): number {
    return this.#waiting.size
  }

  begin(low: number, high: number, thread: number, file: FileNode): Request {
    const request = this.#free.pop() ?? new Request(this)
    request.low = low
    request.high = high
    request.thread = thread
    request.file = file
    request.isWriteBack = false
    request.isOver = false
    return request
  }

  /** To be called when the image was asked: a request that was not answered meanwhile waits. */
  park(request: Request): void {
    if (request.isOver) return
    request.isWaiting = true
    this.#waiting.set(request.key, request)
  }

  onBroken(error: unknown): void {
    this.#owner.onBroken(error)
  }

  done(request: Request): void {
    request.file!.forgotten.delete(request.offset, request.sizeBytes)
    if (request.answer === 'empty') this.answers.sendError(request, 0)
    else {
      this.answers.clear(WRITE_OUT_BYTES)[0] = request.sizeBytes
      this.answers.sendBody(request, WRITE_OUT_BYTES)
    }
    this.end(request)
  }

  fail(request: Request, code: ErrorCode | undefined): void {
    this.#owner.onUnreadable(request.file!, Math.floor(request.offset / PAGE_BYTES), code)
    this.answers.sendError(request, errnoOf(code))
    this.end(request)
  }

  failWrite(request: Request, code: ErrorCode | undefined): void {
    this.#answerFailedWrite(request, errnoOf(code), code)
  }

  /** Lost before it is answered: then the kernel takes the pages for clean. */
  #answerFailedWrite(request: Request, errno: number, code: ErrorCode | undefined): void {
    const { file, offset, sizeBytes, isWriteBack, answer } = request
    if (isWriteBack) this.#owner.onLost(file!, offset, sizeBytes, code)
    else if (answer === 'size') file!.forgotten.add(offset, sizeBytes)
    this.answers.sendError(request, errno)
    this.end(request)
  }

  /** It was answered. */
  end(request: Request): void {
    const wasFull = this.isFull
    if (request.isWaiting) this.#waiting.delete(request.key)
    request.isWaiting = false
    request.isOver = true
    request.file = undefined
    request.stopLooking?.()
    request.stopLooking = undefined
    this.#free.push(request)
    if (wasFull && !this.isFull) this.#owner.onRoom()
  }

  /** A thread that waits has a signal. Ends its waiting if it dies of it. A request that is not known was answered before this was told. */
  interrupt(key: number): void {
    const request = this.#waiting.get(key)
    if (request !== undefined && request.stopLooking === undefined) this.#look(request)
  }

  #look(request: Request): void {
    if (isDying(request.thread)) {
      request.stopLooking = undefined
      this.#abandon(request, ERRNO.EINTR)
    } else request.stopLooking = this.#owner.loop.after(LOOK_AGAIN_MS, () => this.#look(request))
  }

  #abandon(request: Request, errno: number): void {
    request.file!.image.cancel(request)
    this.#answerFailedWrite(request, errno, 'CLOSED')
  }

  /** Ends all that wait with an error. */
  close(): void {
    for (const request of [...this.#waiting.values()]) this.#abandon(request, ERRNO.EIO)
  }
}
