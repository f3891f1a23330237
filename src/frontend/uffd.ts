/**
 * `serveUffd`: the memory of a restore for a VMM that asks for it by userfaultfd, as Firecracker does (`mem_backend: {"backend_type": "Uffd", "backend_path": SOCKET}`).
 *
 * One VMM is served, and its guest gets right pages or dies: it is killed if a page cannot be had, if the pager fails, if this is closed while it lives, and, by the guard, if this
 * process is gone. Pages are served from the moment its handshake is taken; the guard knows of it some milliseconds later, or when this thread has time.
 *
 * The work is done on the pager's thread (uffd/server.ts). This half makes the socket, hands on what happens, and holds a descriptor of the VMM's process.
 */
import { closeSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { ErrorCode } from '../errors.ts'
import { type Guard, startGuard, type Watched } from '../guard.ts'
import type { FrontEndEvent } from '../pager.ts'
import type { AttachedFrontEnd, Restore, RestoreEvent } from '../restore.ts'
import { loadNative, type Native } from '../util/native.ts'
import { hasEnded, killProcess } from '../util/pidfd.ts'
import { checkOwner, checkPath, checkWhole } from './options.ts'
import { type ListeningSocket, listenAt, removeSocketFile } from './socket.ts'
import type { UffdEvent, UffdSpec } from './uffd/spec.ts'
import { largestZeroRuns } from './uffd/zero-runs.ts'

export interface UffdOptions {
  /** Path of the Unix socket that is made. What a server that died has left there is replaced. */
  readonly socket: string
  /** Owner of the socket, for a VMM that runs as another user; default: who runs this process. Needs root. */
  readonly uid?: number | undefined
  readonly gid?: number | undefined
  /** Permission bits of the socket; default 0600. */
  readonly mode?: number | undefined
  /**
   * Pages behind a faulting one that are installed with it, if they lie in the same chunk and are not there yet: 0 to 127, default 0. A guest that touches page after page is
   * found out in any case, and gets up to 128 at once. More spares faults, and takes memory and, in diff snapshots of a VMM that does not track dirty pages, space.
   */
  readonly neighbours?: number | undefined
  /** How long a client may take for its handshake; default 10 s. */
  readonly handshakeTimeoutMs?: number | undefined
}

/** How it ended. */
export type UffdEnd =
  | { readonly reason: 'vmm-exit'; readonly pid: number }
  | {
      readonly reason: 'killed'
      readonly pid: number
      readonly why: string
      /** The page of the image that could not be had, if it was that. */
      readonly page?: number | undefined
      readonly code?: ErrorCode | undefined
    }
  | {
      readonly reason: 'closed'
      /** If nobody asked for it: what failed before a VMM was there. */
      readonly why?: string | undefined
    }

/**
 * Measured with cached pages: touched in order, a page takes 3 to 5 µs whatever this is, because that is found out. At random nine in ten faults take up to 27–45 µs with 0 or 3
 * neighbours and 37–78 µs with 15, and each neighbour that nobody touches is memory of the VMM.
 */
const NEIGHBOURS_DEFAULT = 0
const NEIGHBOURS_MAX = 127
const HANDSHAKE_TIMEOUT_MS = 10_000
/** What a process that was killed may take to end; then it hangs in the kernel, and more cannot be done. */
const END_TIMEOUT_MS = 5000
const LOOK_MS = 10

/**
 * Serves an image of a restore as the memory of a VMM. Resolves when the VMM can connect.
 * @throws NOT_FOUND if there is no such image; UNSUPPORTED without koffi; CONFLICT if the socket's path is taken; DENIED, NO_SPACE, UNAVAILABLE; CLOSED; TypeError and RangeError
 */
export async function serveUffd(restore: Restore, image: string, options: UffdOptions): Promise<UffdPager> {
  checkOptions(options)
  const { socket, neighbours = NEIGHBOURS_DEFAULT, handshakeTimeoutMs = HANDSHAKE_TIMEOUT_MS } = options
  const { starts, chunks } = restore.image(image).share()
  const native = await loadNative('serving by userfaultfd')
  const guard = await startGuard()
  let listening: ListeningSocket | undefined
  try {
    listening = await listenAt(native, socket, options)
    const { fd: listener, file } = listening
    const zeroRuns = largestZeroRuns({ starts, chunks })
    const pager = new UffdPager({ restore, image, native, guard, listening })
    await pager.start({ kind: 'uffd', image, listener, file, handshakeTimeoutMs, neighbours, zeroRuns })
    return pager
  } catch (error) {
    if (listening !== undefined) {
      removeSocketFile(listening.file)
      closeSync(listening.fd)
    }
    await guard.close()
    throw error
  }
}

function checkOptions(options: UffdOptions): void {
  const { socket, neighbours, handshakeTimeoutMs } = options
  checkPath('socket', socket)
  checkOwner(options)
  checkWhole('neighbours', neighbours, 0, NEIGHBOURS_MAX)
  checkWhole('handshakeTimeoutMs', handshakeTimeoutMs, 1, 2 ** 31 - 1)
}

interface UffdParts {
  readonly restore: Restore
  readonly image: string
  readonly native: Native
  readonly guard: Guard
  readonly listening: ListeningSocket
}

interface ServedVmm {
  readonly pid: number
  /** Ours. */
  readonly pidfd: number
  /** The pager's, as long as it lives. */
  readonly held: readonly number[]
  readonly watched: Promise<readonly Watched[]>
}

/** Made by `serveUffd`. */
export class UffdPager implements AsyncDisposable {
  /** Path of the socket. It goes away when the VMM has connected. */
  readonly socket: string
  /** Resolves when nothing is served any more; never rejects. */
  readonly closed: Promise<UffdEnd>
  readonly #parts: UffdParts
  readonly #ended = Promise.withResolvers<UffdEnd>()
  /** Settles when the VMM's process has ended. */
  readonly #vmmEnded = Promise.withResolvers<void>()
  #attached: AttachedFrontEnd | undefined
  #vmm: ServedVmm | undefined
  #unreadable: { readonly page: number; readonly code: ErrorCode | undefined } | undefined
  #killedWhy: string | undefined
  #isListening = true
  #isClosing = false
  #finishing: Promise<void> | undefined

  /** @internal */
  constructor(parts: UffdParts) {
    this.#parts = parts
    this.socket = parts.listening.file.path
    this.closed = this.#ended.promise
  }

  /** @internal */
  async start(spec: UffdSpec): Promise<void> {
    const { restore, image } = this.#parts
    this.#attached = await restore.attach(spec, {
      kind: 'uffd',
      path: this.socket,
      image,
      states: [image],
      onEvent: (event: FrontEndEvent) => this.#hear(event as UffdEvent),
      close: () => this.close(),
    })
    void this.#attached.died.then(error => this.#onPagerDied(error))
  }

  #hear(event: UffdEvent): void {
    switch (event.kind) {
      case 'refused':
        this.#emit({ kind: 'refused', pid: event.pid, reason: event.killed ? `${event.reason}; it was killed` : event.reason })
        break
      case 'vmm':
        this.#connected(event)
        break
      case 'unreadable':
        this.#unreadable = { page: event.page, code: event.code }
        this.#emit({ kind: event.code === 'CORRUPT' ? 'corrupt' : 'unreadable', page: event.page, code: event.code })
        break
      case 'killed':
        this.#killedWhy = event.reason
        this.#emit({ kind: 'killed', pid: event.pid, reason: event.reason })
        break
      case 'exited':
        this.#emit({ kind: 'disconnected', pid: event.pid })
        this.#vmmEnded.resolve()
        void this.#finish(this.#endOf(event.pid))
        break
      case 'broken':
        void this.#finish({ reason: 'closed', why: event.reason })
    }
  }

  #connected({ pid, pidfd, userfaultfd, held }: Extract<UffdEvent, { kind: 'vmm' }>): void {
    this.#stopListening()
    const { guard } = this.#parts
    const watched = Promise.all([guard.watchProcess(pidfd, pid), guard.holdOpen(userfaultfd)])
      .catch((error: unknown) => {
        process.emitWarning(`VMM ${pid} is not guarded: should this process be killed, it hangs (${String(error)})`)
        return []
      })
      .finally(() => closeSync(userfaultfd))
    this.#vmm = { pid, pidfd, held, watched }
    this.#emit({ kind: 'connected', pid })
  }

  #endOf(pid: number): UffdEnd {
    if (this.#isClosing) return { reason: 'closed' }
    if (this.#killedWhy === undefined) return { reason: 'vmm-exit', pid }
    return { reason: 'killed', pid, why: this.#killedWhy, ...this.#unreadable }
  }

  /** Nobody serves the VMM any more. It is killed, and its userfaultfd stays open until it has ended: it would read zeros before. */
  async #onPagerDied(error: Error): Promise<void> {
    const vmm = this.#vmm
    if (vmm === undefined || this.#finishing !== undefined) {
      await this.#finish({ reason: 'closed', why: `its pager failed: ${error.message}` })
      return
    }
    this.#killedWhy ??= `its pager failed: ${error.message}`
    this.#kill(vmm)
    this.#emit({ kind: 'killed', pid: vmm.pid, reason: this.#killedWhy })
    for (let waitedMs = 0; waitedMs < END_TIMEOUT_MS && !hasEnded(this.#parts.native, vmm.pidfd); waitedMs += LOOK_MS) await sleep(LOOK_MS)
    if (hasEnded(this.#parts.native, vmm.pidfd)) for (const fd of vmm.held) closeSync(fd)
    await this.#finish(this.#endOf(vmm.pid))
  }

  /** Ends it. A VMM that lives is killed: it could only hang. Resolves when it is gone. Idempotent. */
  async close(): Promise<void> {
    if (this.#vmm !== undefined && this.#finishing === undefined) {
      this.#isClosing = true
      this.#kill(this.#vmm)
      const controller = new AbortController()
      await Promise.race([this.#vmmEnded.promise, sleep(END_TIMEOUT_MS, undefined, controller).catch(() => undefined)])
      controller.abort()
    }
    await this.#finish({ reason: 'closed' })
  }

  #kill({ pidfd }: ServedVmm): void {
    killProcess(this.#parts.native, pidfd)
  }

  #finish(end: UffdEnd): Promise<void> {
    this.#finishing ??= this.#letGo(end)
    return this.#finishing
  }

  async #letGo(end: UffdEnd): Promise<void> {
    await this.#attached?.detach()
    this.#stopListening()
    for (const watched of (await this.#vmm?.watched) ?? []) watched.release()
    if (this.#vmm !== undefined) closeSync(this.#vmm.pidfd)
    await this.#parts.guard.close()
    this.#emit({ kind: 'closed', reason: end.reason })
    this.#ended.resolve(end)
  }

  #stopListening(): void {
    if (!this.#isListening) return
    this.#isListening = false
    removeSocketFile(this.#parts.listening.file)
    closeSync(this.#parts.listening.fd)
  }

  #emit(event: DistributiveOmit<RestoreEvent, 'frontEnd' | 'path' | 'image'>): void {
    const { restore, image } = this.#parts
    restore.emit({ frontEnd: 'uffd', path: this.socket, image, ...event } as RestoreEvent)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

type DistributiveOmit<T, K extends PropertyKey> = T extends unknown ? Omit<T, K> : never
