/** Who holds how much of what a gate guards (gate.ts): counts and weights, of all, of a tenant and of a restore. */
import type { Owner } from './fair-queue.ts'

/** What nobody holds. */
export interface Left {
  readonly count: number
  readonly weight: number
}

/** What somebody holds. */
export class Load {
  count = 0
  weight = 0

  /** Whether there is room for one more. One that is alone has it always. */
  hasRoom(weight: number, countMax: number, weightMax: number): boolean {
    return this.count === 0 || (this.count < countMax && this.weight + weight <= weightMax)
  }

  /** After one more. */
  left(weight: number, countMax: number, weightMax: number): Left {
    return { count: countMax - this.count - 1, weight: weightMax - this.weight - weight }
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
export class Shares {
  readonly #tenants = new Map<string, TenantLoad>()

  /** Whether one more is within the shares of its tenant and its restore, where so much is left to tenants and to restores after it. */
  hasRoom(owner: Owner, weight: number, left: Left, toRestores: Left): boolean {
    const tenant = this.#tenants.get(tenantOf(owner))
    if (tenant === undefined) return true
    const restore = tenant.restores.get(owner.restore)
    if (!tenant.hasRoom(weight, 3 * left.count, 3 * left.weight)) return false
    return restore === undefined || restore.hasRoom(weight, toRestores.count, toRestores.weight)
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
