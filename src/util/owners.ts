/**
 * For whom work is done that several may wait for. They join while it is under way, and it goes on as
 * soon as it is the turn of any of them (gate.ts): nobody waits for the turn of whoever asked first.
 */
import type { Owner } from './fair-queue.ts'

const NOBODY: Owner = { tenant: '', restore: '' }

/** Among so many it is soon somebody's turn; those who join later are not written down. */
const OWNERS_MAX = 64

export class Owners {
  readonly #all: Owner[]
  readonly #onAdd = new Set<(owner: Owner) => void>()

  constructor(first: Owner = NOBODY) {
    this.#all = [first]
  }

  /** At least one; no two the same. */
  get all(): readonly Owner[] {
    return this.#all
  }

  add(owner: Owner): void {
    const { tenant, restore } = owner
    if (this.#all.length === OWNERS_MAX || this.#all.some(other => other.tenant === tenant && other.restore === restore)) return
    this.#all.push(owner)
    for (const call of this.#onAdd) call(owner)
  }

  /** Adds another's owners, and those who join them, until the function that is returned is called. */
  follow(other: Owners): () => void {
    for (const owner of other.all) this.add(owner)
    return other.onAdd(owner => this.add(owner))
  }

  /** Calls `call` for each who joins, until the function that is returned is called. */
  onAdd(call: (owner: Owner) => void): () => void {
    this.#onAdd.add(call)
    return () => this.#onAdd.delete(call)
  }

  static of(owner: Owner | Owners | undefined): Owners {
    return owner instanceof Owners ? owner : new Owners(owner)
  }
}
