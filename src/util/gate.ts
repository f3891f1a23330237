/**
 * The gate in front of everything scarce: slots of memory, reads of a disk, calls of a cache or a
 * store, threads that open chunks. It admits work while the number of those admitted and the sum of
 * their weights are within bounds, and says whose turn is next:
 *
 * - Demands before bulk before prefetch, whichever came first. Bulk and prefetch together hold at
 *   most three quarters of either bound, so a demand finds room at once in most cases.
 *   Of seventeen in a row one is of a lower class that waits, so that what is done in bulk ends even
 *   beside demands that never do.
 * - Within a class the tenants take turns, then the restores of a tenant; a restore's own work goes
 *   in the order of arrival. What several wait for goes when it is the turn of any of them.
 * - Nobody overtakes a heavy one whose turn it is, so it gets in. One heavier than a bound is
 *   admitted alone.
 * - With `keepsFree` a tenant's demands take more only while they hold at most three times what is
 *   left after that, and those of one restore as much as is left (Choudhury and Hahne, "Dynamic queue
 *   length thresholds in a shared memory ATM switch", INFOCOM 1996); so does what else they do, the
 *   tenant's of what bulk and prefetch may hold. What is held may be held for long, because a store
 *   hangs: another restore then still finds room, and another tenant at least a quarter. Without a
 *   tenant each restore is one of its own.
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
import { Owners } from './owners.ts'
import { Load, Shares } from './shares.ts'
import { PRIORITIES, type Priority, type Urgency } from './urgency.ts'

export type { Owner } from './fair-queue.ts'

/** Demands in a row that are admitted before others that wait. */
const IN_A_ROW_MAX = 16

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
  /** Default: nobody in particular. They may become more while it waits. */
  readonly owner?: Owner | Owners | undefined
}

/** A place in a queue, then at what the gate guards. */
export interface Place {
  /** Gives the place back, or stops waiting for it. Idempotent. */
  leave(): void
}

export class Gate {
  readonly #bounds: GateBounds
  readonly #weightMax: number
  readonly #classes: readonly FairQueue<Ticket>[] = PRIORITIES.map(() => new FairQueue())
  readonly #all = new Load()
  /** Of those that were admitted as bulk or prefetch. */
  readonly #lower = new Load()
  /** Where it matters: who holds what was admitted as a demand, and who what was not. */
  readonly #demandShares = new Shares()
  readonly #lowerShares = new Shares()
  #waiting = 0
  /** Demands that were admitted, one after the other, while others waited. */
  #inARow = 0
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
    const owner = this.#freeFor(waiter)
    if (owner !== undefined) this.#admit(waiter, owner)
    else {
      this.#queue(waiter)
      this.look()
    }
    return waiter
  }

  /** Admitted now or not at all: if nobody waits and there is room. */
  tryEnter(request: GateRequest = {}): Place | undefined {
    const waiter = new Waiter(this, request, ignore)
    const owner = this.#freeFor(waiter)
    if (owner === undefined) return undefined
    this.#admit(waiter, owner)
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
        const { waiter, owner } = next
        this.#classOf(waiter).hadTurn(next)
        this.#takeOut(waiter)
        this.#admit(waiter, owner)
      }
    } finally {
      this.#isAdmitting = false
    }
  }

  /** @internal Of a waiter, wherever it is by then. */
  left(waiter: Waiter): void {
    if (waiter.isQueued) {
      this.#takeOut(waiter)
      waiter.stopListening()
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

  /** @internal Another one waits for the same. He has a turn too, if not too much of his waits. */
  joined(waiter: Waiter, owner: Owner): void {
    if (this.#isFull(waiter, owner)) return
    this.#classOf(waiter).add(waiter.ticketFor(owner))
    this.look()
  }

  /** On whose behalf it goes at once, if it may. */
  #freeFor(waiter: Waiter): Owner | undefined {
    if (this.#waiting > 0) return undefined
    const owner = waiter.owners.all.find(owner => this.#mayHold(waiter, owner))
    return owner !== undefined && this.#hasRoom(waiter) && this.#isReady() ? owner : undefined
  }

  #isReady(): boolean {
    return this.#bounds.isReady?.() ?? true
  }

  #queue(waiter: Waiter): void {
    if (waiter.owners.all.every(owner => this.#isFull(waiter, owner))) {
      throw new ThawError('UNAVAILABLE', 'too much waits for its turn already')
    }
    this.#putIn(waiter)
    waiter.listen()
  }

  #isFull(waiter: Waiter, owner: Owner): boolean {
    return this.#classOf(waiter).countOf(owner) >= (this.#bounds.waitingMax ?? WAITING_MAX)
  }

  #classOf({ priority }: Waiter): FairQueue<Ticket> {
    return this.#classes[PRIORITIES.indexOf(priority)]!
  }

  #putIn(waiter: Waiter): void {
    for (const owner of waiter.owners.all) this.#classOf(waiter).add(waiter.ticketFor(owner))
    this.#waiting++
  }

  #takeOut(waiter: Waiter): void {
    for (const ticket of waiter.tickets.splice(0)) this.#classOf(waiter).remove(ticket)
    this.#waiting--
  }

  /** Whose turn it is, if there is room for it. Who holds his tenant's share is passed over. */
  #next(): Ticket | undefined {
    if (this.#waiting === 0) return undefined
    if (this.#inARow >= IN_A_ROW_MAX) {
      const [, ...lower] = this.#classes
      const ticket = this.#firstOf(lower)
      if (ticket !== undefined && this.#hasRoom(ticket.waiter) && this.#isReady()) return ticket
    }
    const ticket = this.#firstOf(this.#classes)
    return ticket !== undefined && this.#hasRoom(ticket.waiter) && this.#isReady() ? ticket : undefined
  }

  #firstOf(classes: readonly FairQueue<Ticket>[]): Ticket | undefined {
    for (const queue of classes) {
      const ticket = queue.firstOf(this.#isWithinShare)
      if (ticket !== undefined) return ticket
    }
    return undefined
  }

  #hasRoom({ priority, weight }: Waiter): boolean {
    const { countMax } = this.#bounds
    if (!this.#all.hasRoom(weight, countMax, this.#weightMax)) return false
    return priority === 'demand' || this.#lower.hasRoom(weight, lowerShare(countMax), lowerShare(this.#weightMax))
  }

  readonly #isWithinShare = ({ waiter, owner }: Ticket): boolean => this.#mayHold(waiter, owner)

  #mayHold({ weight, priority }: Waiter, owner: Owner): boolean {
    if (!this.#bounds.keepsFree) return true
    let left = this.#all.left(weight, this.#bounds.countMax, this.#weightMax)
    const restores = left
    if (priority !== 'demand') {
      const lower = this.#lower.left(weight, lowerShare(this.#bounds.countMax), lowerShare(this.#weightMax))
      left = { count: Math.min(left.count, lower.count), weight: Math.min(left.weight, lower.weight) }
    }
    return this.#sharesOf(priority).hasRoom(owner, weight, left, restores)
  }

  #admit(waiter: Waiter, owner: Owner): void {
    waiter.stopListening()
    waiter.owner = owner
    const { weight, priority } = waiter
    this.#inARow = priority === 'demand' && this.#waiting > 0 ? this.#inARow + 1 : 0
    this.#all.add(weight)
    if (priority !== 'demand') this.#lower.add(weight)
    if (this.#bounds.keepsFree) this.#sharesOf(priority).add(owner, weight)
    waiter.onAdmitted(waiter)
  }

  #giveBack({ weight, priority, owner }: Waiter): void {
    this.#all.subtract(weight)
    if (priority !== 'demand') this.#lower.subtract(weight)
    if (this.#bounds.keepsFree) this.#sharesOf(priority).subtract(owner!, weight)
  }

  #sharesOf(priority: Priority): Shares {
    return priority === 'demand' ? this.#demandShares : this.#lowerShares
  }
}

/** Three quarters; of a count in whole ones. `Load.hasRoom` sees to it that it is at least one. */
function lowerShare(bound: number): number {
  return Math.floor((3 * bound) / 4)
}

/** A place in the queue of one for whom it is entered. */
class Ticket extends Queued {
  readonly waiter: Waiter

  constructor(waiter: Waiter, owner: Owner) {
    super(owner)
    this.waiter = waiter
  }
}

/** One call of `enter`: it waits while it has tickets, holds until it left, and is over then. */
class Waiter implements Place {
  readonly weight: number
  readonly onAdmitted: (place: Place) => void
  readonly owners: Owners
  readonly tickets: Ticket[] = []
  /** Whose turn it was admitted by. */
  owner: Owner | undefined
  /** While it waits it is that of its urgency, afterwards the one it was admitted with. */
  priority: Priority
  readonly #gate: Gate
  readonly #urgency: Urgency | undefined
  readonly #stops: (() => void)[] = []
  #hasLeft = false

  constructor(gate: Gate, { weight = 0, urgency, owner }: GateRequest, onAdmitted: (place: Place) => void) {
    this.weight = weight
    this.onAdmitted = onAdmitted
    this.owners = Owners.of(owner)
    this.priority = urgency?.priority ?? 'demand'
    this.#gate = gate
    this.#urgency = urgency
  }

  get isQueued(): boolean {
    return this.tickets.length > 0
  }

  ticketFor(owner: Owner): Ticket {
    const ticket = new Ticket(this, owner)
    this.tickets.push(ticket)
    return ticket
  }

  listen(): void {
    if (this.#urgency !== undefined) this.#stops.push(this.#urgency.onRaise(priority => this.#gate.raised(this, priority)))
    this.#stops.push(this.owners.onAdd(owner => this.#gate.joined(this, owner)))
  }

  stopListening(): void {
    for (const stop of this.#stops.splice(0)) stop()
  }

  leave(): void {
    if (this.#hasLeft) return
    this.#hasLeft = true
    this.#gate.left(this)
  }
}

function ignore(): void {}
