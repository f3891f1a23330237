/**
 * One VMM whose memory is served, from its handshake to the end of its process.
 *
 * Its guest gets right pages or dies. While its process lives its userfaultfd stays open here: the kernel would fill what is missing with zeros once nobody has it open. So the
 * end is what the pidfd says, not the socket: a hang-up of that comes a little earlier, or means nothing.
 *
 * A turn takes MESSAGES_MAX messages, removals first. The kernel hands out faults before removals, and installs nothing as long as a removal is unread, so taking only part of
 * what there is does no harm.
 */
import { isThawError } from '../../errors.ts'
import type { FaultContext, ServedImage, Watched } from '../../pager.ts'
import type { DescriptorMessages } from '../../util/descriptor-message.ts'
import { ERRNO } from '../../util/native.ts'
import { hasEnded, killProcess, type PeerProcess } from '../../util/pidfd.ts'
import { type FaultFailure, Faults } from './faults.ts'
import { EVENT, Userfaultfd } from './kernel.ts'
import { type RegionLayout, Regions } from './regions.ts'
import type { UffdEvent, UffdSpec } from './spec.ts'
import { ZeroRuns } from './zero-runs.ts'

/** Ranges that are unregistered at a time, some µs each: guests of the same pager wait meanwhile. */
const UNREGISTER_AT_ONCE = 32

/** A VMM whose handshake was taken. The descriptors go over to whoever serves it. */
export interface TakenVmm {
  readonly peer: PeerProcess
  readonly socket: number
  /** Of that socket. */
  readonly messages: DescriptorMessages
  readonly userfaultfd: number
  readonly layouts: readonly RegionLayout[]
}

export class Vmm implements Watched {
  readonly #context: FaultContext
  readonly #taken: TakenVmm
  readonly #emit: (event: UffdEvent) => void
  readonly #uffd: Userfaultfd
  readonly #regions: Regions
  readonly #faults: Faults
  readonly #zeroRuns: ZeroRuns
  #stopUnregistering: (() => void) | undefined
  #state: 'served' | 'dying' | 'gone' = 'served'

  constructor(context: FaultContext, spec: UffdSpec, image: ServedImage, taken: TakenVmm, emit: (event: UffdEvent) => void) {
    this.#context = context
    this.#taken = taken
    this.#emit = emit
    this.#uffd = new Userfaultfd(context.native, taken.userfaultfd)
    this.#regions = new Regions(taken.layouts)
    this.#zeroRuns = new ZeroRuns(spec.zeroRuns, this.#regions)
    this.#faults = new Faults({
      native: context.native,
      uffd: this.#uffd,
      image,
      pages: context.faultsOf(image.name),
      regions: this.#regions,
      loop: context.loop,
      neighbours: spec.neighbours,
      onFailure: failure => this.#fail(failure),
      onBroken: error => this.onBroken(error),
    })
    const { loop } = context
    loop.watch(taken.userfaultfd, this)
    loop.watch(taken.peer.pidfd, { serve: () => this.#lookForEnd(), onBroken: error => this.onBroken(error) })
    this.#unregister()
  }

  /** Takes what the userfaultfd has to tell. */
  serve(): boolean {
    const count = this.#uffd.read()
    if (count === -ERRNO.EAGAIN && this.#uffd.wasMadeToBlock) {
      // The loop would find it ready for ever, and the thread would never sleep.
      this.#fail({ reason: 'it took O_NONBLOCK off its userfaultfd' })
      return true
    }
    if (count === -ERRNO.EAGAIN || count === -ERRNO.EINTR) return false
    if (count <= 0) {
      this.#fail({ reason: `its userfaultfd cannot be read: errno ${-count}` })
      return true
    }
    for (let message = 0; message < count; message++) {
      const event = this.#uffd.eventOf(message)
      if (event === EVENT.remove) this.#faults.remove(this.#uffd.startOf(message), this.#uffd.endOf(message))
      else if (event !== EVENT.pageFault) this.#refuse(event, message)
    }
    this.#faults.beginTurn()
    for (let message = 0; message < count; message++) {
      if (this.#uffd.eventOf(message) !== EVENT.pageFault) continue
      if (this.#uffd.isMissing(message)) this.#faults.serve(this.#uffd.faultOf(message))
      else this.#fail({ reason: 'it asked for leave to write to pages: only missing pages can be served' })
    }
    return true
  }

  #refuse(event: number, message: number): void {
    if (event === EVENT.fork) this.#context.native.close(this.#uffd.forkedFd(message))
    this.#fail({ reason: `its userfaultfd told of event 0x${event.toString(16)}: only removes can be followed` })
  }

  /** Hands zero pages back to the kernel, some in each turn. */
  readonly #unregister = (): void => {
    this.#stopUnregistering = undefined
    if (this.#state !== 'served') return
    for (let i = 0; i < UNREGISTER_AT_ONCE; i++) {
      if (!this.#zeroRuns.next()) return
      const { address, sizeBytes } = this.#zeroRuns
      // Out of memory for mappings, or not one mapping any more: those pages are served like others.
      this.#uffd.unregister(address, sizeBytes)
    }
    this.#stopUnregistering = this.#context.loop.after(0, this.#unregister)
  }

  #fail({ reason, page, code }: FaultFailure): void {
    if (this.#state !== 'served') return
    if (page !== undefined) this.#emit({ kind: 'unreadable', page, code })
    this.#kill()
    this.#emit({ kind: 'killed', pid: this.#taken.peer.pid, reason })
  }

  onBroken(error: unknown): void {
    this.#fail({ reason: `a bug: ${error instanceof Error ? error.stack : String(error)}` })
  }

  /** What is left to wait for is the end of the process. */
  #kill(): void {
    this.#state = 'dying'
    this.#stop()
    try {
      killProcess(this.#context.native, this.#taken.peer.pidfd)
    } catch (error) {
      // It was allowed at the handshake; it has become another user's since. Its page stays poisoned, or never comes.
      if (!isThawError(error)) throw error
    }
  }

  #stop(): void {
    this.#faults.close()
    this.#stopUnregistering?.()
    this.#stopUnregistering = undefined
    this.#context.loop.unwatch(this.#taken.userfaultfd)
  }

  #lookForEnd(): boolean {
    if (this.#state === 'gone' || !hasEnded(this.#context.native, this.#taken.peer.pidfd)) return false
    this.#emit({ kind: 'exited', pid: this.#taken.peer.pid })
    this.#letGo()
    return true
  }

  #letGo(): void {
    if (this.#state === 'served') this.#stop()
    this.#state = 'gone'
    this.#context.loop.unwatch(this.#taken.peer.pidfd)
    const { userfaultfd, socket, messages, peer } = this.#taken
    messages.end()
    for (const fd of [userfaultfd, socket, peer.pidfd]) this.#context.descriptors.close(fd)
  }

  /** Ends it. A VMM that lives is killed: it would wait for ever for the next page that it has not got. Idempotent. */
  close(): void {
    if (this.#state === 'gone') return
    if (this.#state === 'served') this.#kill()
    this.#letGo()
  }
}
