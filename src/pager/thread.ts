/**
 * A pager's thread: its loop, the line to the engine, the restores it serves, and what main tells it. Main posts a message and rings an eventfd, which the loop waits for like
 * for any other descriptor: the thread has no event loop of Node's own while it serves.
 *
 * Whatever is thrown here ends the thread, and with it everything it serves: main sees that, and closes the descriptors and kills the guests.
 */
import { type MessagePort, receiveMessageOnPort } from 'node:worker_threads'
import { Arena } from '../arena.ts'
import type { FrontEnd, FrontEndContext, FrontEndSpec, PagedImage, Watched } from '../pager.ts'
import { silenceEventFd } from '../util/eventfd.ts'
import { failureOf } from '../util/failure.ts'
import type { Native } from '../util/native.ts'
import { Loop } from './loop.ts'
import type { FromPager, PagerInput, ToPager } from './messages.ts'
import { LiveImage } from './served-image.ts'
import { ImageSurroundings } from './surroundings.ts'
import { LineWants } from './wants.ts'

/** Who serves which kind. */
export type Starters = Readonly<Record<string, (context: FrontEndContext, spec: never) => FrontEnd>>

interface ServedRestore {
  readonly images: Map<string, LiveImage>
  readonly deadlineMs: number
  readonly frontEnds: Set<number>
}

export class PagerThread {
  readonly #native: Native
  readonly #port: MessagePort
  readonly #starters: Starters
  readonly #wants: LineWants
  readonly #loop: Loop
  readonly #around: ImageSurroundings
  readonly #restores = new Map<number, ServedRestore>()
  readonly #frontEnds = new Map<number, FrontEnd>()

  constructor(native: Native, port: MessagePort, starters: Starters, { arena, line, bellFd, spinMicroseconds }: PagerInput) {
    this.#native = native
    this.#port = port
    this.#starters = starters
    this.#wants = new LineWants(new Arena(arena), line)
    this.#loop = new Loop({ native, source: this.#wants, spinMicroseconds })
    this.#wants.attach(this.#loop)
    this.#around = new ImageSurroundings(this.#wants, native, callback => void this.#loop.after(0, callback))
    this.#loop.watch(
      bellFd,
      bell(bellFd, () => this.#hear()),
    )
    // It is rung by the engine, whose answers the loop looks at in every turn.
    if (line.bellFd !== undefined)
      this.#loop.watch(
        line.bellFd,
        bell(line.bellFd, () => undefined),
      )
  }

  /** Serves until main says stop. */
  run(): void {
    this.#loop.run()
    this.#wants.close()
  }

  #hear(): void {
    for (let received = receiveMessageOnPort(this.#port); received !== undefined; received = receiveMessageOnPort(this.#port)) {
      const message: ToPager = received.message
      if (!('call' in message)) this.#obey(message)
      else this.#answer(message.call, message)
    }
  }

  #answer(call: number, message: ToPager): void {
    try {
      this.#obey(message)
      this.#post({ kind: 'done', call })
    } catch (error) {
      this.#post({ kind: 'failed', call, failure: failureOf(error) })
    }
  }

  #obey(message: ToPager): void {
    switch (message.kind) {
      case 'restore':
        this.#restores.set(message.restore, { images: new Map(), deadlineMs: message.deadlineMs, frontEnds: new Set() })
        for (const image of message.images) this.#addImage(message.restore, image)
        return
      case 'image':
        this.#addImage(message.restore, message.image)
        return
      case 'frontEnd':
        this.#start(message.restore, message.frontEnd, message.spec)
        return
      case 'endFrontEnd':
        this.#end(message.frontEnd)
        return
      case 'endRestore':
        for (const frontEnd of this.#restores.get(message.restore)?.frontEnds ?? []) this.#end(frontEnd)
        this.#restores.delete(message.restore)
        return
      case 'stop':
        for (const frontEnd of this.#frontEnds.keys()) this.#end(frontEnd)
        this.#loop.stop()
    }
  }

  #addImage(restore: number, image: PagedImage): void {
    const { images, deadlineMs } = this.#restores.get(restore)!
    const there = images.get(image.name)
    if (there === undefined) images.set(image.name, new LiveImage(image, this.#around, deadlineMs))
    else there.setOverlay(image.overlay)
  }

  #start(restore: number, frontEnd: number, spec: FrontEndSpec): void {
    const { images, frontEnds } = this.#restores.get(restore)!
    const context: FrontEndContext = {
      native: this.#native,
      loop: this.#loop,
      images,
      emit: event => this.#post({ kind: 'event', frontEnd, event }),
    }
    this.#frontEnds.set(frontEnd, this.#starters[spec.kind]!(context, spec as never))
    frontEnds.add(frontEnd)
  }

  #end(frontEnd: number): void {
    this.#frontEnds.get(frontEnd)?.close()
    this.#frontEnds.delete(frontEnd)
    for (const { frontEnds } of this.#restores.values()) frontEnds.delete(frontEnd)
  }

  #post(message: FromPager): void {
    this.#port.postMessage(message)
  }
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
