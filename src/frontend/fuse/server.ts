/**
 * A mount on its pager's thread: takes requests when there are some and hands them to the session, a bounded amount a turn.
 *
 * The descriptor is the main half's, which closes it when this has ended. When the kernel lets go of the mount, everything ends here, and main is told.
 */
import type { FrontEnd, FrontEndContext, Watched } from '../../pager.ts'
import { NativeTransport, NOTHING, type Transport, UNMOUNTED } from './device.ts'
import { FuseSession } from './session.ts'
import type { FuseEvent, FuseSpec } from './spec.ts'

/** A turn ends after so many requests, so that other front ends of the pager have theirs: each answers at most 1 MiB, 0.2 ms. */
const REQUESTS_A_TURN = 8
/** Of an image and a kind: whoever reads a bad page again and again shall not keep main busy. */
const TROUBLE_TOLD_MAX = 64

class FuseServer implements FrontEnd, Watched {
  readonly #context: FrontEndContext
  readonly #fd: number
  readonly #transport: Transport
  readonly #session: FuseSession
  readonly #told = new Map<string, number>()
  #isOpened = false
  #isPaused = false
  #isOver = false

  constructor(context: FrontEndContext, transport: Transport, { fd, look, writable, readAheadBytes }: FuseSpec) {
    this.#context = context
    this.#fd = fd
    this.#transport = transport
    this.#session = new FuseSession(this.#transport, {
      images: context.images,
      look,
      writable,
      readAheadBytes,
      loop: context.loop,
      onOpened: pid => this.#onOpened(pid),
      onUnreadable: (image, page, code) => this.#tell({ kind: 'unreadable', image, page, code }),
      onDamaged: (image, page, count, code) => this.#tell({ kind: 'damaged', image, page, count, code }),
      onRoom: () => this.#resume(),
      onBroken: error => this.onBroken(error),
    })
    context.loop.watch(fd, this)
  }

  serve(): boolean {
    if (this.#isPaused && this.#transport.isUnmounted()) this.#end({ kind: 'unmounted', inUse: this.#session.hasWriters })
    let count = 0
    while (count < REQUESTS_A_TURN && !this.#isOver && !this.#isPaused) {
      const sizeBytes = this.#transport.receive(this.#session.request)
      if (sizeBytes === NOTHING) break
      count++
      if (sizeBytes === UNMOUNTED) this.#end({ kind: 'unmounted', inUse: this.#session.hasWriters })
      else this.#session.handle(sizeBytes)
      if (this.#session.isFull) this.#pause()
    }
    return count > 0
  }

  onBroken(error: unknown): void {
    if (this.#isOver) return
    this.#session.endBroken()
    this.#end({ kind: 'broken', reason: error instanceof Error ? (error.stack ?? error.message) : String(error) })
  }

  close(): void {
    this.#end({ kind: this.#transport.isUnmounted() ? 'unmounted' : 'left', inUse: this.#session.hasWriters })
  }

  #end(event: FuseEvent): void {
    if (this.#isOver) return
    this.#isOver = true
    this.#context.loop.unwatch(this.#fd)
    this.#session.close()
    this.#context.emit(event)
  }

  /** That the mount is gone is heard nevertheless. */
  #pause(): void {
    this.#isPaused = true
    this.#context.loop.rewatch(this.#fd, { readable: false, writable: false })
  }

  #resume(): void {
    if (this.#isOver || !this.#isPaused) return
    this.#isPaused = false
    this.#context.loop.rewatch(this.#fd, { readable: true, writable: false })
  }

  #onOpened(pid: number): void {
    if (this.#isOpened) return
    this.#isOpened = true
    this.#emit({ kind: 'opened', pid })
  }

  #tell(event: FuseEvent & { readonly kind: 'unreadable' | 'damaged' }): void {
    const about = `${event.kind} ${event.image}`
    const told = this.#told.get(about) ?? 0
    if (told >= TROUBLE_TOLD_MAX) return
    this.#told.set(about, told + 1)
    this.#emit(event)
  }

  #emit(event: FuseEvent): void {
    this.#context.emit(event)
  }
}

/** Serves a mount that is there: its INIT waits to be answered. */
export function startFuse(
  context: FrontEndContext,
  spec: FuseSpec,
  transport: Transport = new NativeTransport(context.native, spec.fd),
): FrontEnd {
  return new FuseServer(context, transport, spec)
}
