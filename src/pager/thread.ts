/**
 * A pager's thread: its loop, the line to the engine, the restores it serves, and what main asks of it. Main posts a message and rings an eventfd, which the loop waits for like
 * for any other descriptor: the thread has no event loop of Node's own while it serves.
 *
 * Every request of main's is answered, and none ends the thread: one that fails is answered with why. What a front end throws ends that front end alone. Anything else that is
 * thrown here ends the thread with all it serves: main sees that, closes the descriptors and kills the guests.
 */
import assert from 'node:assert/strict'
import { type MessagePort, receiveMessageOnPort } from 'node:worker_threads'
import { Arena } from '../arena.ts'
import { WANTS_MAX } from '../engine/line.ts'
import { LineClient } from '../engine/line-client.ts'
import { ThawError } from '../errors.ts'
import type { FaultContext, FrontEnd, FrontEndSpec, PagedImage, PagerLoop, Watched } from '../pager.ts'
import { silenceEventFd } from '../util/eventfd.ts'
import { failureOf } from '../util/failure.ts'
import type { Native } from '../util/native.ts'
import { LineSource } from './line-source.ts'
import { Loop, type TurnOwner } from './loop.ts'
import type { FromPager, PagerInput, PagerRequest, ToPager } from './messages.ts'
import { OpenDescriptors } from './open-descriptors.ts'
import { LiveImage } from './served-image.ts'
import { ImageSurroundings } from './surroundings.ts'
import { Wants } from './wants.ts'

/** Who serves which kind. */
export type Starters = Readonly<Record<string, (context: FaultContext, spec: never) => FrontEnd>>

interface ServedRestore {
  readonly images: Map<string, LiveImage>
  readonly deadlineMs: number
  readonly frontEnds: Set<number>
  /** Its descriptors take turns with those of others. */
  readonly turns: TurnOwner
}

export class PagerThread {
  readonly #native: Native
  readonly #port: MessagePort
  readonly #starters: Starters
  readonly #line: LineClient
  readonly #loop: Loop
  readonly #descriptors: OpenDescriptors
  readonly #around: ImageSurroundings
  readonly #restores = new Map<number, ServedRestore>()
  readonly #frontEnds = new Map<number, FrontEnd>()

  constructor(native: Native, port: MessagePort, starters: Starters, input: PagerInput) {
    const { arena, line, epollFd, bellFd, spinMicroseconds } = input
    this.#native = native
    this.#port = port
    this.#starters = starters
    this.#line = new LineClient(line)
    const source = new LineSource(this.#line, answer => this.#around.wants.answer(answer))
    this.#loop = new Loop({ native, epollFd, source, spinMicroseconds })
    this.#descriptors = new OpenDescriptors(input.descriptors, fd => native.close(fd))
    this.#around = this.#surroundings(new Arena(arena))
    this.#loop.watch(
      bellFd,
      bell(bellFd, () => this.#hear()),
    )
    // It is rung by the engine, whose answers the loop looks at in every turn.
    this.#loop.watch(
      line.bellFd!,
      bell(line.bellFd!, () => undefined),
    )
  }

  #surroundings(arena: Arena): ImageSurroundings {
    const timers = this.#loop
    const wants = new Wants({ arena, requests: this.#line, requestsMax: WANTS_MAX, timers })
    const countHits = (chunks: number, bytes: number): void => this.#line.countHits(chunks, bytes)
    return new ImageSurroundings({ arena, wants, timers, native: this.#native, countHits })
  }

  /** Serves until main says stop. */
  run(): void {
    this.#loop.run()
    this.#line.close()
  }

  #hear(): void {
    for (let received = receiveMessageOnPort(this.#port); received !== undefined; received = receiveMessageOnPort(this.#port)) {
      this.#answer(received.message)
    }
  }

  #answer({ number, request }: ToPager): void {
    try {
      this.#obey(request)
      this.#post({ kind: 'done', number })
    } catch (error) {
      this.#post({ kind: 'failed', number, failure: failureOf(error) })
    }
  }

  #obey(request: PagerRequest): void {
    switch (request.kind) {
      case 'openRestore':
        this.#open(request.restore, request.deadlineMs, request.images)
        break
      case 'setImage':
        setImage(this.#restore(request.restore), request.image, this.#around)
        break
      case 'startFrontEnd':
        this.#start(request.restore, request.frontEnd, request.spec)
        break
      case 'endFrontEnd':
        this.#end(request.frontEnd)
        break
      case 'endRestore': {
        const { frontEnds } = this.#restore(request.restore)
        this.#restores.delete(request.restore)
        this.#endAll(frontEnds)
        break
      }
      case 'stop':
        this.#loop.stop()
        this.#endAll(this.#frontEnds.keys())
    }
  }

  #open(restore: number, deadlineMs: number, images: readonly PagedImage[]): void {
    const turns = { tenant: images[0]?.owner.tenant, servedAt: 0 }
    const served: ServedRestore = { images: new Map(), deadlineMs, frontEnds: new Set(), turns }
    for (const image of images) setImage(served, image, this.#around)
    this.#restores.set(restore, served)
  }

  #restore(number: number): ServedRestore {
    const restore = this.#restores.get(number)
    if (restore === undefined) throw new ThawError('CLOSED', 'the pager does not serve that restore any more')
    return restore
  }

  #start(restore: number, frontEnd: number, spec: FrontEndSpec): void {
    const { images, frontEnds, turns } = this.#restore(restore)
    const context: FaultContext = {
      native: this.#native,
      descriptors: this.#descriptors,
      loop: this.#loopOf(frontEnd, turns),
      images,
      faultsOf: name => images.get(name)!.faults,
      emit: event => this.#post({ kind: 'event', frontEnd, event }),
    }
    this.#frontEnds.set(frontEnd, this.#starters[spec.kind]!(context, spec as never))
    frontEnds.add(frontEnd)
  }

  /**
   * A front end reaches its own descriptors alone: a number that it has let go of may be another's by
   * now. A timer of its own that throws is its end. What is watched has its own `onBroken`.
   */
  #loopOf(frontEnd: number, turns: TurnOwner): PagerLoop {
    const loop = this.#loop
    const watchedFds = new Set<number>()
    return {
      watch(fd, watched) {
        loop.watch(fd, watched, turns)
        watchedFds.add(fd)
      },
      rewatch(fd, interest) {
        assert(watchedFds.has(fd))
        loop.rewatch(fd, interest)
      },
      unwatch(fd) {
        if (watchedFds.delete(fd)) loop.unwatch(fd)
      },
      after: (ms, callback) =>
        loop.after(ms, () => {
          try {
            callback()
          } catch (error) {
            this.#frontEnds.get(frontEnd)?.onBroken(error)
          }
        }),
    }
  }

  #end(number: number): void {
    const frontEnd = this.#frontEnds.get(number)
    this.#frontEnds.delete(number)
    for (const { frontEnds } of this.#restores.values()) frontEnds.delete(number)
    frontEnd?.close()
  }

  /** One that fails keeps no other. */
  #endAll(numbers: Iterable<number>): void {
    const failures: unknown[] = []
    for (const number of [...numbers]) {
      try {
        this.#end(number)
      } catch (error) {
        failures.push(error)
      }
    }
    if (failures.length > 0) throw failures[0]
  }

  #post(message: FromPager): void {
    this.#port.postMessage(message)
  }
}

function setImage({ images, deadlineMs }: ServedRestore, image: PagedImage, around: ImageSurroundings): void {
  const there = images.get(image.name)
  if (there === undefined) images.set(image.name, new LiveImage(image, around, deadlineMs))
  else there.setOverlay(image.overlay)
}

function bell(fd: number, onRung: () => void): Watched {
  return {
    serve() {
      silenceEventFd(fd)
      onRung()
      return true
    },
    onBroken(error) {
      throw error
    },
  }
}
