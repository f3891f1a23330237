/**
 * The descriptor of a mount where there is no koffi: a thread reads requests from it and waits there (request-thread.ts), and whoever has this object answers them, on a thread with
 * an event loop.
 *
 * Nothing but a request or the end of the mount ends that wait. So it is told to stop and then somebody asks the mount something; a mount that cannot be reached any more, because
 * another lies over it or it was detached while in use, keeps its thread until the next request. `process.exit` waits for threads too, and a process that is held up so is killed.
 */
import { closeSync, writeSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { isMainThread, Worker } from 'node:worker_threads'
import { type Gathered, type PagerLoop, TRANSFER_BYTES_MAX, type Watched } from '../../pager.ts'
import { systemClock } from '../../util/clock.ts'
import { errnoOfSystem, refusalOf, type Transport, UNMOUNTED } from './device.ts'
import { REPLY_HEADER_BYTES } from './protocol.ts'
import { RequestRing, type RequestThreadInput } from './request-ring.ts'
import { REQUEST_BYTES_MAX } from './session.ts'

/** What a thread that was woken may take to end. */
const END_MS = 2000

/** Asks the mount something, whatever it is. */
export interface Waker {
  /** Does not wait for the answer, and does not reject. */
  wake(): Promise<void>
  /** At the end of the process: takes the mount off, too. */
  wakeAtExit(): void
}

export class BlockingDevice implements Transport {
  /** What its server watches it with. The descriptor is the only one there is. */
  readonly loop: PagerLoop
  readonly #fd: number
  readonly #waker: Waker
  readonly #ring = RequestRing.allocate(REQUEST_BYTES_MAX)
  readonly #answer = Buffer.from(new ArrayBuffer(REPLY_HEADER_BYTES + TRANSFER_BYTES_MAX))
  readonly #thread: Worker
  readonly #ended = Promise.withResolvers<void>()
  #hasEnded = false
  #watched: Watched | undefined
  #isListening = true
  #turn: NodeJS.Immediate | undefined
  #closing: Promise<void> | undefined

  /** @param fd mounted; it is this object's, and closed by `close` */
  constructor(fd: number, waker: Waker) {
    this.#fd = fd
    this.#waker = waker
    this.loop = {
      watch: (_fd, watched) => this.#watch(watched),
      rewatch: (_fd, { readable }) => this.#listen(readable),
      unwatch: () => this.#watch(undefined),
      after: (ms, callback) => systemClock.after(ms, callback),
    }
    this.#thread = startThread({ fd, ring: this.#ring.memory })
    this.#thread.on('message', () => this.#hear())
    this.#thread.on('error', error => this.#watched?.onBroken(error))
    this.#thread.once('exit', () => this.#onEnded())
    remember(this)
  }

  receive(request: Uint8Array): number {
    const sizeBytes = this.#ring.take(request)
    return sizeBytes === 0 && this.#hasEnded ? UNMOUNTED : sizeBytes
  }

  isUnmounted(): boolean {
    return this.#hasEnded
  }

  write(answer: Uint8Array, sizeBytes: number): number {
    try {
      writeSync(this.#fd, answer, 0, sizeBytes)
      return 0
    } catch (error) {
      return errnoOfSystem(error)
    }
  }

  writeGathered(header: Uint8Array, bytes: Gathered): number {
    this.#answer.set(header)
    return this.write(this.#answer, REPLY_HEADER_BYTES + bytes.copyTo(this.#answer.subarray(REPLY_HEADER_BYTES)))
  }

  #watch(watched: Watched | undefined): void {
    this.#watched = watched
    this.#schedule()
  }

  #listen(isListening: boolean): void {
    this.#isListening = isListening
    this.#schedule()
  }

  #hear(): void {
    this.#ring.hush()
    this.#serve()
  }

  #onEnded(): void {
    this.#hasEnded = true
    forget(this)
    this.#ended.resolve()
    this.#schedule()
  }

  /** A turn of its own for each bounded amount of work: others use this thread, too. */
  #schedule(): void {
    this.#turn ??= setImmediate(() => {
      this.#turn = undefined
      this.#serve()
    })
  }

  /** Goes on as long as there is something. That the mount has gone is told to one that does not listen, too. */
  #serve(): void {
    const watched = this.#watched
    if (watched === undefined || !(this.#isListening || this.#hasEnded)) return
    try {
      if (watched.serve()) this.#schedule()
    } catch (error) {
      watched.onBroken(error)
    }
  }

  /**
   * Ends the thread, and with the descriptor the waiting of all who read. Nobody may watch it any more. A thread that cannot be woken is left to the next request, which it refuses.
   * Idempotent, does not reject.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    this.#ring.stop()
    // Not before: until then the thread may use it, whose number could be another's.
    const closed = this.#ended.promise.then(() => closeSync(this.#fd))
    if (!this.#hasEnded) await this.#waker.wake()
    const late = new AbortController()
    await Promise.race([closed, sleep(END_MS, undefined, late).catch(() => undefined)])
    late.abort()
    if (!this.#hasEnded) this.#refuseRest()
    this.#thread.unref()
  }

  /** What was read and not looked at. */
  #refuseRest(): void {
    const request = Buffer.alloc(REQUEST_BYTES_MAX)
    while (this.#ring.take(request) > 0) this.write(refusalOf(request), REPLY_HEADER_BYTES)
  }

  /** The process is about to wait for the thread. */
  endAtExit(): void {
    this.#ring.stop()
    this.#waker.wakeAtExit()
    if (!this.#ring.waitForEnd(END_MS) && isMainThread) process.kill(process.pid, 'SIGKILL')
  }
}

function startThread(input: RequestThreadInput): Worker {
  // Bundled, the threads lie beside each other, and this file in one of the chunks beside them.
  const file = import.meta.url.endsWith('.ts') ? './request-thread.ts' : './fuse-worker.js'
  return new Worker(new URL(file, import.meta.url), { workerData: input, name: 'thaw fuse' })
}

/** Whose threads live. */
const devices = new Set<BlockingDevice>()

function remember(device: BlockingDevice): void {
  if (devices.size === 0) process.on('exit', endAll)
  devices.add(device)
}

function forget(device: BlockingDevice): void {
  devices.delete(device)
  if (devices.size === 0) process.off('exit', endAll)
}

function endAll(): void {
  for (const device of devices) device.endAtExit()
}
