/**
 * The pager's half of the userfaultfd front end: waits for the one VMM of its restore, and serves it.
 *
 * Clients are heard side by side, at most HANDSHAKES_MAX, so that one that says nothing keeps nobody out. The first whose handshake is right is the VMM: the socket's file goes away,
 * so that the next one is told by `connect` that nobody is there, and does not come to wait for pages; who had connected by then is turned away.
 */
import assert from 'node:assert/strict'
import { isThawError } from '../../errors.ts'
import type { FaultContext, FrontEnd, ServedImage, Watched } from '../../pager.ts'
import { killProcess, type PeerProcess, peerProcess } from '../../util/pidfd.ts'
import { systemError } from '../../util/system-error.ts'
import { removeSocketFile } from '../socket.ts'
import { Connection } from './connection.ts'
import type { UffdEvent, UffdSpec } from './spec.ts'
import { type TakenVmm, Vmm } from './vmm.ts'

const HANDSHAKES_MAX = 8
/** Without a free descriptor, until the next try. */
const PAUSE_MS = 100
const ENFILE = 23
const EMFILE = 24
/** <fcntl.h> */
const F_DUPFD_CLOEXEC = 1030
/** accept4: SOCK_NONBLOCK | SOCK_CLOEXEC. */
const ACCEPT_FLAGS = 0o4000 | 0o2000000

/** @throws nothing: what goes wrong later is told as events */
export function startUffd(context: FaultContext, spec: UffdSpec): FrontEnd {
  return new UffdServer(context, spec)
}

class UffdServer implements FrontEnd, Watched {
  readonly #context: FaultContext
  readonly #spec: UffdSpec
  readonly #image: ServedImage
  readonly #connections = new Set<Connection>()
  #isListening = true
  #stopPause: (() => void) | undefined
  #vmm: Vmm | undefined

  constructor(context: FaultContext, spec: UffdSpec) {
    const image = context.images.get(spec.image)
    assert(image !== undefined)
    this.#context = context
    this.#spec = spec
    this.#image = image
    context.loop.watch(spec.listener, this)
  }

  /** Somebody connects. */
  serve(): boolean {
    let accepted = 0
    while (this.#isListening && this.#connections.size < HANDSHAKES_MAX && this.#accept()) accepted++
    if (this.#isListening && this.#connections.size >= HANDSHAKES_MAX) this.#pause()
    return accepted > 0
  }

  /** A VMM that is served ends, and with it all there is to serve. */
  onBroken(error: unknown): void {
    if (this.#vmm !== undefined) this.#vmm.onBroken(error)
    else {
      this.close()
      this.#emit({ kind: 'broken', reason: error instanceof Error ? String(error.stack) : String(error) })
    }
  }

  /** @returns whether somebody was there */
  #accept(): boolean {
    const { native, descriptors } = this.#context
    const socket = native.accept(this.#spec.listener, ACCEPT_FLAGS)
    if (socket < 0) {
      if (native.errno() === EMFILE || native.errno() === ENFILE) this.#pauseFor(PAUSE_MS)
      return false
    }
    descriptors.own(socket)
    const peer = this.#peerOf(socket)
    if (peer === undefined) descriptors.close(socket)
    else {
      descriptors.own(peer.pidfd)
      this.#hear(socket, peer)
    }
    return true
  }

  #peerOf(socket: number): PeerProcess | undefined {
    try {
      return peerProcess(this.#context.native, socket)
    } catch (error) {
      if (!isThawError(error)) throw error
      this.#emit({ kind: 'refused', pid: 0, reason: error.message, killed: false })
      return undefined
    }
  }

  #hear(socket: number, peer: PeerProcess): void {
    const connection: Connection = new Connection({
      context: this.#context,
      socket,
      peer,
      imagePages: this.#image.pageCount,
      timeoutMs: this.#spec.handshakeTimeoutMs,
      objection: () => (this.#vmm === undefined ? undefined : 'another VMM is served: a restore is one life of one VM'),
      onTaken: taken => {
        this.#connections.delete(connection)
        this.#take(taken)
      },
      onRefused: (reason, killed) => {
        this.#connections.delete(connection)
        this.#emit({ kind: 'refused', pid: peer.pid, reason, killed })
        this.#listenAgain()
      },
    })
    this.#connections.add(connection)
  }

  #take(taken: TakenVmm): void {
    const { pid, pidfd } = taken.peer
    const forMain: number[] = []
    try {
      for (const fd of [pidfd, taken.userfaultfd]) forMain.push(this.#duplicate(fd))
      this.#vmm = new Vmm(this.#context, this.#spec, this.#image, taken, event => this.#emit(event))
    } catch (error) {
      for (const fd of forMain) this.#context.native.close(fd)
      this.#drop(taken)
      this.#emit({ kind: 'refused', pid, reason: `it cannot be watched: ${String(error)}`, killed: true })
      return
    }
    // First, because main closes the listener when it hears of the VMM.
    this.#endListening()
    this.#emit({ kind: 'vmm', pid, pidfd: forMain[0]!, userfaultfd: forMain[1]! })
  }

  #duplicate(fd: number): number {
    const own = this.#context.native.fcntl(fd, F_DUPFD_CLOEXEC, 0)
    if (own < 0) throw systemError(this.#context.native, 'fcntl')
    return own
  }

  /** It has handed its userfaultfd over, and would wait for ever. */
  #drop({ peer, socket, messages, userfaultfd }: TakenVmm): void {
    const { native, loop, descriptors } = this.#context
    killProcess(native, peer.pidfd)
    messages.end()
    for (const fd of [userfaultfd, socket, peer.pidfd]) {
      loop.unwatch(fd)
      descriptors.close(fd)
    }
  }

  /** Nobody can connect any more; who has, is heard, and told. */
  #endListening(): void {
    removeSocketFile(this.#spec.file)
    while (this.#accept());
    this.#stopListening()
  }

  /** Lets them queue: until one that is heard is through, or for a while. */
  #pause(): void {
    this.#context.loop.rewatch(this.#spec.listener, { readable: false, writable: false })
  }

  #pauseFor(ms: number): void {
    this.#pause()
    this.#stopPause?.()
    this.#stopPause = this.#context.loop.after(ms, () => this.#listenAgain())
  }

  /** The descriptor is main's: nothing is asked of it afterwards. Idempotent. */
  #stopListening(): void {
    if (!this.#isListening) return
    this.#isListening = false
    this.#stopPause?.()
    this.#context.loop.unwatch(this.#spec.listener)
  }

  #listenAgain(): void {
    if (this.#isListening) this.#context.loop.rewatch(this.#spec.listener, { readable: true, writable: false })
  }

  #emit(event: UffdEvent): void {
    this.#context.emit(event)
  }

  close(): void {
    this.#stopListening()
    for (const connection of this.#connections) connection.refuse('the front end has been closed')
    this.#vmm?.close()
  }
}
