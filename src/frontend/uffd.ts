/**
 * `serveUffd`: the memory of a restore for a VMM that asks for it by userfaultfd, as Firecracker does (`mem_backend: {"backend_type": "Uffd", "backend_path": SOCKET}`).
 *
 * One VMM is served, and its guest gets right pages or dies: it is killed if a page cannot be had, if the pager fails, if this is closed while it lives, and, by the guard, if this
 * process is gone. Pages are served from the moment its handshake is taken; the guard knows of it some milliseconds later, or when this thread has time.
 *
 * The work is done on the pager's thread (uffd/server.ts). This half makes the socket, hands on what happens, and holds a descriptor of the VMM's process.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { ErrorCode } from '../errors.ts'
import type { Guard } from '../guard.ts'
import type { Restore } from '../restore.ts'
import { Descriptor } from '../util/descriptor.ts'
import { loadNative, type Native } from '../util/native.ts'
import { hasEnded, killProcess } from '../util/pidfd.ts'
import { Lifecycle } from './lifecycle.ts'
import { checkOwner, checkPath, checkWhole, HANDSHAKE_TIMEOUT_MS, TIMEOUT_MS_MAX } from './options.ts'
import { listenAt, removeSocketFile } from './socket.ts'
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
/** What a process that was killed may take to end; then it hangs in the kernel, and more cannot be done. */
const END_TIMEOUT_MS = 5000
const LOOK_MS = 10

/**
 * Serves an image of a restore as the memory of a VMM. Resolves when the VMM can connect.
 * @throws NOT_FOUND if there is no such image; UNSUPPORTED without koffi; CONFLICT if the socket's path is taken; DENIED, NO_SPACE, UNAVAILABLE; CLOSED; TypeError and RangeError
 */
export async function serveUffd(restore: Restore, image: string, options: UffdOptions): Promise<UffdPager> {
  checkOptions(options)
  const pager = new UffdPager(restore, image, options, await loadNative('serving by userfaultfd'))
  await pager.start()
  return pager
}

function checkOptions(options: UffdOptions): void {
  const { socket, neighbours, handshakeTimeoutMs } = options
  checkPath('socket', socket)
  checkOwner(options)
  checkWhole('neighbours', neighbours, 0, NEIGHBOURS_MAX)
  checkWhole('handshakeTimeoutMs', handshakeTimeoutMs, 1, TIMEOUT_MS_MAX)
}

interface ServedVmm {
  readonly pid: number
  readonly pidfd: Descriptor
  /** Open until the guard has it too. */
  readonly userfaultfd: Descriptor
}

/** Made by `serveUffd`. */
export class UffdPager implements AsyncDisposable {
  /** Path of the socket. It goes away when the VMM has connected. */
  readonly socket: string
  /** Resolves when nothing is served any more; never rejects. */
  readonly closed: Promise<UffdEnd>
  readonly #restore: Restore
  readonly #options: UffdOptions
  readonly #native: Native
  readonly #life: Lifecycle<UffdEnd>
  #vmm: ServedVmm | undefined
  #unreadable: { readonly page: number; readonly code: ErrorCode | undefined } | undefined
  #killedWhy: string | undefined

  /** @internal */
  constructor(restore: Restore, image: string, options: UffdOptions, native: Native) {
    this.socket = options.socket
    this.#restore = restore
    this.#options = options
    this.#native = native
    this.#life = new Lifecycle({ restore, kind: 'uffd', path: () => options.socket, image, states: [image] })
    this.closed = this.#life.closed
  }

  /** @internal */
  start(): Promise<void> {
    return this.#life.start(() => this.#begin())
  }

  async #begin(): Promise<void> {
    const life = this.#life
    const image = life.image!
    const zeroRuns = largestZeroRuns(this.#restore.image(image).share())
    const guard = await life.guard()
    life.own(() => this.#letGoOfVmm())
    const { fd, file } = await listenAt(this.#native, this.socket, { ...this.#options, takesDescriptors: true })
    life.own(() => removeSocketFile(file))
    const listener = life.ownDescriptor(fd)
    const { neighbours = NEIGHBOURS_DEFAULT, handshakeTimeoutMs = HANDSHAKE_TIMEOUT_MS } = this.#options
    const spec: UffdSpec = { kind: 'uffd', image, listener: fd, file, handshakeTimeoutMs, neighbours, zeroRuns }
    await life.attach(spec, {
      onEvent: event => {
        // The pager has removed its file already.
        if (event.kind === 'vmm') listener.close()
        this.#hear(event as UffdEvent, guard)
      },
      onDied: error => this.#onDied(error),
    })
    // Its pager has its userfaultfd open until then: the kernel would give it zeros.
    life.own(() => this.#endVmm())
  }

  #hear(event: UffdEvent, guard: Guard): void {
    const life = this.#life
    switch (event.kind) {
      case 'refused':
        life.emit({ kind: 'refused', pid: event.pid, reason: event.killed ? `${event.reason}; it was killed` : event.reason })
        break
      case 'vmm':
        this.#vmm = { pid: event.pid, pidfd: new Descriptor(event.pidfd), userfaultfd: new Descriptor(event.userfaultfd) }
        void this.#guardVmm(guard, this.#vmm)
        life.emit({ kind: 'connected', pid: event.pid })
        break
      case 'unreadable':
        this.#unreadable = { page: event.page, code: event.code }
        life.emit({ kind: event.code === 'CORRUPT' ? 'corrupt' : 'unreadable', page: event.page, code: event.code })
        break
      case 'killed':
        this.#killed(event.pid, event.reason)
        break
      case 'exited':
        life.emit({ kind: 'disconnected', pid: event.pid })
        void life.end(this.#endOf(event.pid))
        break
      case 'broken':
        void life.end({ reason: 'closed', why: event.reason })
    }
  }

  /** Does not reject. */
  async #guardVmm(guard: Guard, { pid, pidfd, userfaultfd }: ServedVmm): Promise<void> {
    try {
      await Promise.all([guard.watchProcess(pidfd.fd, pid), guard.holdOpen(userfaultfd.fd)])
      userfaultfd.close()
    } catch (error) {
      if (!this.#life.isServing) return
      process.emitWarning(`VMM ${pid} is not guarded: should this process be killed, it hangs (${String(error)})`)
    }
  }

  #killed(pid: number, why: string): void {
    this.#killedWhy = why
    this.#life.emit({ kind: 'killed', pid, reason: why })
  }

  #endOf(pid: number): UffdEnd {
    if (this.#killedWhy === undefined) return { reason: 'vmm-exit', pid }
    return { reason: 'killed', pid, why: this.#killedWhy, ...this.#unreadable }
  }

  /** Nobody serves the VMM any more: it is killed. */
  #onDied(error: Error): void {
    const why = `its pager failed: ${error.message}`
    if (this.#vmm === undefined || !this.#life.isServing) void this.#life.end({ reason: 'closed', why })
    else {
      const { pid } = this.#vmm
      if (this.#killedWhy === undefined) this.#killed(pid, why)
      void this.#life.end(this.#endOf(pid))
    }
  }

  /** Kills the VMM if it lives, and waits for its end. */
  async #endVmm(): Promise<void> {
    if (this.#vmm === undefined) return
    const { fd } = this.#vmm.pidfd
    killProcess(this.#native, fd)
    for (let waitedMs = 0; waitedMs < END_TIMEOUT_MS && !hasEnded(this.#native, fd); waitedMs += LOOK_MS) await sleep(LOOK_MS)
  }

  /** It may have come when this was closed already. */
  async #letGoOfVmm(): Promise<void> {
    try {
      await this.#endVmm()
    } finally {
      this.#vmm?.pidfd.close()
      this.#vmm?.userfaultfd.close()
    }
  }

  /** Ends it. A VMM that lives is killed: it could only hang. Resolves when it is gone. Idempotent. */
  close(): Promise<void> {
    return this.#life.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}
