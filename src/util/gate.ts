/**
 * The gate in front of everything scarce: slots of memory, reads of a disk, calls of a cache or a
 * store, threads that open chunks. It admits work while the number of those admitted and the sum of
 * their weights are within bounds, and says whose turn is next:
 *
 * - Demands before bulk before prefetch, whichever came first. Bulk and prefetch together hold at
 *   most three quarters of either bound, so a demand finds room at once in most cases.
 * - Within a class the tenants take turns, then the restores of a tenant; a restore's own work goes
 *   in the order of arrival.
 * - Nobody overtakes a heavy one whose turn it is, so it gets in. One heavier than a bound is
 *   admitted alone.
 * - With `keepsFree` a tenant's demands take more only while they hold at most three times what is
 *   left after that, and those of one restore as much as is left (Choudhury and Hahne, "Dynamic queue
 *   length thresholds in a shared memory ATM switch", INFOCOM 1996); so does what else they do. What
 *   is held may be held for long, because a store hangs: another restore then still finds room, and
 *   another tenant at least a quarter. Without a tenant each restore is one of its own.
 *
 * Each restore waits in a queue of its own, one a class, and each queue has a bound: whoever fills
 * his is refused, and nobody else.
 *
 * One may wait at several gates. They stand in a fixed order, and whoever holds something of one
 * waits only at later ones, so that no circle of waiters can form:
 *
 *     arena → slab → tier (disk, L2, origin) → opening
 *
 * A deadline is the waiter's: it takes its place back when it passes, and the gate knows no time.
 */
import { ThawError } from '../errors.ts'
import { FairQueue, type Owner, Queued } from './fair-queue.ts'
import { PRIORITIES, type Priority, type Urgency } from './urgency.ts'

export type { Owner } from './fair-queue.ts'

const NOBODY: Owner = { tenant: '', restore: '' }

/** Of one restore in one class, unless bounds say otherwise. */
const WAITING_MAX = 65_536

export interface GateBounds {
  /** Admitted at a time. */
  readonly countMax: number
  /** Sum of the weights of those admitted; default: any. */
  readonly weightMax?: number | undefined
  /** Waiters of one restore in one class; default 65,536. The next one is UNAVAILABLE at once. */
  readonly waitingMax?: number | undefined
  /** No tenant and no restore holds so much that the next one finds nothing; default false. */
  readonly keepsFree?: boolean | undefined
  /** Asked last before each admission: whether there is what it is for. `look` says that there may be. */
  readonly isReady?: (() => boolean) | undefined
}

export interface GateRequest {
  /** Default 0. */
  readonly weight?: number | undefined
  /** Default: a demand. It may rise while it waits. */
  readonly urgency?: Urgency | undefined
  /** Default: nobody in particular. */
  readonly owner?: Owner | undefined
}

/** A place in a queue, then at what the gate guards. */
export interface Place {
  /** Gives the place back, or stops waiting for it. Idempotent. */
  leave(): void
}

export class Gate {
  readonly #bounds: GateBounds
  readonly #weightMax: number
  readonly #classes: readonly FairQueue<Waiter>[] = PRIORITIES.map(() => new FairQueue())
  readonly #all = new Load()
  /** Of those that were admitted as bulk or prefetch. */
  readonly #lower = new Load()
  /** Where it matters: who holds what was admitted as a demand, and who what was not. */
  readonly #demandShares = new Shares()
  readonly #lowerShares = new Shares()
  #waiting = 0
  #isAdmitting = false

  constructor(bounds: GateBounds) {
    this.#bounds = bounds
    this.#weightMax = bounds.weightMax ?? Infinity
  }

  /** How many wait. */
  get waiting(): number {
    return this.#waiting
  }

  /** How many were admitted and have not left. */
  get admitted(): number {
    return this.#all.count
  }

  /**
   * Calls `onAdmitted` once with the place: before this returns if nobody waits and there is room.
   * It must not throw. No promise, no timer and no signal: for callers that have no event loop.
   * @throws UNAVAILABLE if too many of the same restore and class wait
   */
  enter(request: GateRequest, onAdmitted: (place: Place) => void): Place {
    return this.#enter(request, onAdmitted)
  }

  #enter(request: GateRequest, onAdmitted: (place: Place) => void): Waiter {
    const waiter = new Waiter(this, request, onAdmitted)
    if (this.#isFree(waiter)) this.#admit(waiter)
    else {
      this.#queue(waiter)
      this.look()
    }
    return waiter
  }

  /** Admitted now or not at all: if nobody waits and there is room. */
  tryEnter(request: GateRequest = {}): Place | undefined {
    const waiter = new Waiter(this, request, ignore)
    if (!this.#isFree(waiter)) return undefined
    this.#admit(waiter)
    return waiter
  }

  /**
   * Resolves to the place when admitted. Rejects with the signal's reason when it aborts before.
   * @throws UNAVAILABLE if too many of the same restore and class wait
   */
  admit(request: GateRequest = {}, signal?: AbortSignal): Promise<Place> {
    return this.admitTo(place => place, request, signal)
  }

  /** As `admit`, but resolves to what `take` gives, which is called at the moment of the admission. */
  admitTo<T>(take: (place: Place) => T, request: GateRequest = {}, signal?: AbortSignal): Promise<T> {
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted()
      const onAbort = (): void => {
        waiter.leave()
        reject(signal!.reason)
      }
      const waiter = this.#enter(request, place => {
        signal?.removeEventListener('abort', onAbort)
        resolve(take(place))
      })
      // It may have passed those who wait.
      if (waiter.isQueued) signal?.addEventListener('abort', onAbort)
    })
  }

  /** Admits those for whom there is room now. */
  look(): void {
    // What is admitted may leave or enter at once: then it is this loop that goes on, not one within it.
    if (this.#isAdmitting) return
    this.#isAdmitting = true
    try {
      for (let next = this.#next(); next !== undefined; next = this.#next()) {
        this.#classOf(next).hadTurn(next)
        this.#takeOut(next)
        this.#admit(next)
      }
    } finally {
      this.#isAdmitting = false
    }
  }

  /** @internal Of a waiter, wherever it is by then. */
  left(waiter: Waiter): void {
    if (waiter.isQueued) {
      this.#takeOut(waiter)
      waiter.stopRaises()
    } else this.#giveBack(waiter)
    // It may have been the heavy one that held up the others.
    if (this.#waiting > 0) this.look()
  }

  /** @internal A waiter is more urgent than it was. */
  raised(waiter: Waiter, priority: Priority): void {
    this.#takeOut(waiter)
    waiter.priority = priority
    this.#putIn(waiter)
    this.look()
  }

  #isFree(waiter: Waiter): boolean {
    return this.#waiting === 0 && this.#isWithinShare(waiter) && this.#hasRoom(waiter) && this.#isReady()
  }

  #isReady(): boolean {
    return this.#bounds.isReady?.() ?? true
  }

  #queue(waiter: Waiter): void {
    if (this.#classOf(waiter).countOf(waiter.owner) >= (this.#bounds.waitingMax ?? WAITING_MAX)) {
      throw new ThawError('UNAVAILABLE', 'too much waits for its turn already')
    }
    this.#putIn(waiter)
    waiter.listenToRaises()
  }

  #classOf({ priority }: Waiter): FairQueue<Waiter> {
    return this.#classes[PRIORITIES.indexOf(priority)]!
  }

  #putIn(waiter: Waiter): void {
    this.#classOf(waiter).add(waiter)
    this.#waiting++
  }

  #takeOut(waiter: Waiter): void {
    this.#classOf(waiter).remove(waiter)
    this.#waiting--
  }

  /** Whose turn it is, if there is room for it. Who holds his tenant's share is passed over. */
  #next(): Waiter | undefined {
    if (this.#waiting === 0) return undefined
    for (const queue of this.#classes) {
      const waiter = queue.firstOf(this.#isWithinShare)
      if (waiter !== undefined) return this.#hasRoom(waiter) && this.#isReady() ? waiter : undefined
    }
    return undefined
  }

  #hasRoom({ priority, weight }: Waiter): boolean {
    const { countMax } = this.#bounds
    if (!this.#all.hasRoom(weight, countMax, this.#weightMax)) return false
    return priority === 'demand' || this.#lower.hasRoom(weight, lowerShare(countMax), lowerShare(this.#weightMax))
  }

  readonly #isWithinShare = ({ weight, owner, priority }: Waiter): boolean => {
    if (!this.#bounds.keepsFree) return true
    const leftCount = this.#bounds.countMax - this.#all.count - 1
    const leftWeight = this.#weightMax - this.#all.weight - weight
    return this.#sharesOf(priority).hasRoom(owner, weight, leftCount, leftWeight)
  }

  #admit(waiter: Waiter): void {
    waiter.stopRaises()
    const { weight, priority, owner } = waiter
    this.#all.add(weight)
    if (priority !== 'demand') this.#lower.add(weight)
    if (this.#bounds.keepsFree) this.#sharesOf(priority).add(owner, weight)
    waiter.onAdmitted(waiter)
  }

  #giveBack({ weight, priority, owner }: Waiter): void {
    this.#all.subtract(weight)
    if (priority !== 'demand') this.#lower.subtract(weight)
    if (this.#bounds.keepsFree) this.#sharesOf(priority).subtract(owner, weight)
  }

  #sharesOf(priority: Priority): Shares {
    return priority === 'demand' ? this.#demandShares : this.#lowerShares
  }
}

/** What somebody holds. */
class Load {
  count = 0
  weight = 0

  /** Whether there is room for one more. One that is alone has it always. */
  hasRoom(weight: number, countMax: number, weightMax: number): boolean {
    return this.count === 0 || (this.count < countMax && this.weight + weight <= weightMax)
  }

  add(weight: number): void {
    this.count++
    this.weight += weight
  }

  subtract(weight: number): void {
    this.count--
    this.weight -= weight
  }
}

/** What a tenant holds for each restore; also in all. */
class TenantLoad extends Load {
  readonly restores = new Map<string, Load>()
}

/** Who holds how much. */
class Shares {
  readonly #tenants = new Map<string, TenantLoad>()

  /** Whether one more is within the shares of its tenant and its restore, where so much is left after it. */
  hasRoom(owner: Owner, weight: number, leftCount: number, leftWeight: number): boolean {
    const tenant = this.#tenants.get(tenantOf(owner))
    if (tenant === undefined) return true
    const restore = tenant.restores.get(owner.restore)
    return tenant.hasRoom(weight, 3 * leftCount, 3 * leftWeight) && (restore?.hasRoom(weight, leftCount, leftWeight) ?? true)
  }

  add(owner: Owner, weight: number): void {
    const tenant = this.#tenants.get(tenantOf(owner)) ?? new TenantLoad()
    this.#tenants.set(tenantOf(owner), tenant)
    const restore = tenant.restores.get(owner.restore) ?? new Load()
    tenant.restores.set(owner.restore, restore)
    tenant.add(weight)
    restore.add(weight)
  }

  subtract(owner: Owner, weight: number): void {
    const tenant = this.#tenants.get(tenantOf(owner))!
    const restore = tenant.restores.get(owner.restore)!
    tenant.subtract(weight)
    restore.subtract(weight)
    if (restore.count === 0) tenant.restores.delete(owner.restore)
    if (tenant.count === 0) this.#tenants.delete(tenantOf(owner))
  }
}

/** Names of tenants hold no slash (names.ts). */
function tenantOf({ tenant, restore }: Owner): string {
  return tenant === '' ? `/${restore}` : tenant
}

/** Three quarters; of a count in whole ones. `Load.hasRoom` sees to it that it is at least one. */
function lowerShare(bound: number): number {
  return Math.floor((3 * bound) / 4)
}

/** One call of `enter`: it waits while it is queued, holds until it left, and is over then. */
class Waiter extends Queued implements Place {
  readonly weight: number
  readonly onAdmitted: (place: Place) => void
  /** While it waits it is that of its urgency, afterwards the one it was admitted with. */
  priority: Priority
  readonly #gate: Gate
  readonly #urgency: Urgency | undefined
  #stop: (() => void) | undefined
  #hasLeft = false

  constructor(gate: Gate, { weight = 0, urgency, owner = NOBODY }: GateRequest, onAdmitted: (place: Place) => void) {
    super(owner)
    this.weight = weight
    this.onAdmitted = onAdmitted
    this.priority = urgency?.priority ?? 'demand'
    this.#gate = gate
    this.#urgency = urgency
  }

  listenToRaises(): void {
    this.#stop = this.#urgency?.onRaise(priority => this.#gate.raised(this, priority))
  }

  stopRaises(): void {
    this.#stop?.()
  }

  leave(): void {
    if (this.#hasLeft) return
    this.#hasLeft = true
    this.#gate.left(this)
  }
}

function ignore(): void {}
