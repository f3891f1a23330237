/**
 * A queue in which the tenants take turns, and within a tenant its restores; the items of one
 * restore go in the order of arrival. Every step but `firstOf` takes the same time however many wait.
 */
import { Ring, RingItem } from './ring.ts'

/** For whom work is done. Plain data: it crosses threads. */
export interface Owner {
  /** '' is the platform. */
  readonly tenant: string
  /** Id of the restore that waits; '' for reads of the library without one. */
  readonly restore: string
}

export abstract class Queued extends RingItem {
  readonly owner: Owner
  /** @internal Where it waits. */
  restore: RestoreQueue | undefined

  constructor(owner: Owner) {
    super()
    this.owner = owner
  }

  get isQueued(): boolean {
    return this.restore !== undefined
  }
}

export class FairQueue<T extends Queued> {
  readonly #turns = new Ring<TenantQueue>()
  readonly #tenants = new Map<string, TenantQueue>()

  /** How many items of a restore wait. */
  countOf({ tenant, restore }: Owner): number {
    return this.#tenants.get(tenant)?.restores.get(restore)?.size ?? 0
  }

  /** As the last of its restore. */
  add(item: T): void {
    const { tenant, restore } = item.owner
    let queue = this.#tenants.get(tenant)
    if (queue === undefined) {
      queue = new TenantQueue()
      this.#tenants.set(tenant, queue)
      this.#turns.add(queue)
    }
    queue.add(item, restore)
  }

  /** From wherever it stands. */
  remove(item: T): void {
    const { tenant } = item.owner
    const queue = this.#tenants.get(tenant)!
    queue.remove(item)
    if (queue.restores.size > 0) return
    this.#tenants.delete(tenant)
    this.#turns.remove(queue)
  }

  /** It is an item's turn: the next one is another restore's, of another tenant. */
  hadTurn(item: T): void {
    const queue = this.#tenants.get(item.owner.tenant)!
    queue.turns.turnAfter(item.restore!)
    this.#turns.turnAfter(queue)
  }

  /** The item whose turn it is, among the restores whose next one `may`. */
  firstOf(may: (item: T) => boolean): T | undefined {
    for (const tenant of this.#turns) {
      for (const { items } of tenant.turns) if (may(items.current as T)) return items.current as T
    }
    return undefined
  }
}

/** The restores of a tenant that wait. */
class TenantQueue extends RingItem {
  readonly turns = new Ring<RestoreQueue>()
  readonly restores = new Map<string, RestoreQueue>()

  add(item: Queued, restore: string): void {
    let queue = this.restores.get(restore)
    if (queue === undefined) {
      queue = new RestoreQueue()
      this.restores.set(restore, queue)
      this.turns.add(queue)
    }
    queue.items.add(item)
    queue.size++
    item.restore = queue
  }

  remove(item: Queued): void {
    const queue = item.restore!
    item.restore = undefined
    queue.items.remove(item)
    if (--queue.size > 0) return
    this.restores.delete(item.owner.restore)
    this.turns.remove(queue)
  }
}

class RestoreQueue extends RingItem {
  readonly items = new Ring<Queued>()
  size = 0
}
