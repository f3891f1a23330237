import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { Gate, type GateBounds, type GateRequest, type Owner, type Place } from '../../src/util/gate.ts'
import { Owners } from '../../src/util/owners.ts'
import { PRIORITIES, type Priority, Urgency } from '../../src/util/urgency.ts'
import { codeOf, codeOfAsync } from '../code-of.ts'

const of = (tenant: string, restore = ''): Owner => ({ tenant, restore })
const urgent = (priority: Priority): Urgency => new Urgency(priority)

/** A gate, and who was admitted in which order. */
class Bench {
  readonly gate: Gate
  readonly order: string[] = []
  readonly #places = new Map<string, Place>()

  constructor(bounds: GateBounds) {
    this.gate = new Gate(bounds)
  }

  enter(name: string, request: GateRequest = {}): void {
    const place = this.gate.enter(request, admitted => {
      this.order.push(name)
      this.#places.set(name, admitted)
    })
    this.#places.set(name, place)
  }

  leave(...names: string[]): void {
    for (const name of names) this.#places.get(name)!.leave()
  }

  /** Lets everybody in who waits, one after the other. */
  drain(): string[] {
    const from = this.order.length
    for (let at = 0; at < this.order.length; at++) this.leave(this.order[at]!)
    return this.order.slice(from)
  }
}

describe('a gate', () => {
  it('admits at once up to its bounds, and then in the order of arrival', () => {
    const bench = new Bench({ countMax: 2 })
    for (const name of ['a', 'b', 'c', 'd']) bench.enter(name)
    expect([bench.order, bench.gate.waiting, bench.gate.admitted]).toEqual([['a', 'b'], 2, 2])
    expect(bench.drain()).toEqual(['c', 'd'])
    expect([bench.gate.waiting, bench.gate.admitted]).toEqual([0, 0])
  })

  it('admits demands before bulk before prefetch', () => {
    const bench = new Bench({ countMax: 1 })
    bench.enter('first')
    for (const priority of ['prefetch', 'bulk', 'demand'] as const) {
      for (const number of [1, 2]) bench.enter(`${priority} ${number}`, { urgency: urgent(priority) })
    }
    expect(bench.drain()).toEqual(['demand 1', 'demand 2', 'bulk 1', 'bulk 2', 'prefetch 1', 'prefetch 2'])
  })

  it('moves to the end of its new class who is raised, wherever it stands', () => {
    const bench = new Bench({ countMax: 1 })
    bench.enter('first')
    const urgency = urgent('prefetch')
    bench.enter('raised', { urgency })
    bench.enter('prefetch', { urgency: urgent('prefetch') })
    bench.enter('bulk', { urgency: urgent('bulk') })
    bench.enter('demand')
    urgency.raise('bulk')
    expect(bench.gate.waiting).toBe(4)
    urgency.raise()
    expect(bench.drain()).toEqual(['demand', 'raised', 'bulk', 'prefetch'])
    urgency.raise()
  })

  it('lets the lower classes hold three quarters of the count, and of the weight', () => {
    const bench = new Bench({ countMax: 8, weightMax: 400 })
    for (let number = 0; number < 8; number++) bench.enter(`${number}`, { urgency: urgent(number % 2 === 0 ? 'bulk' : 'prefetch') })
    expect(bench.gate.admitted).toBe(6)
    bench.enter('demand')
    expect(bench.order.at(-1)).toBe('demand')
    bench.leave('0', '2', '4', '1', '3', '5', 'demand', '6', '7')
    for (const number of [1, 2, 3, 4]) bench.enter(`heavy ${number}`, { weight: 100, urgency: urgent('prefetch') })
    expect([bench.gate.admitted, bench.gate.waiting]).toEqual([3, 1])
  })

  it('admits what is heavier than a bound when it is alone, and nobody overtakes it', () => {
    const bench = new Bench({ countMax: 4, weightMax: 100 })
    bench.enter('light', { weight: 10 })
    bench.enter('heavy', { weight: 1000 })
    bench.enter('later', { weight: 1, owner: of('other') })
    bench.enter('prefetch', { urgency: urgent('prefetch') })
    expect(bench.order).toEqual(['light'])
    bench.leave('light')
    expect(bench.order).toEqual(['light', 'heavy'])
    bench.leave('heavy')
    expect(bench.order).toEqual(['light', 'heavy', 'later', 'prefetch'])
  })

  it('admits those behind a heavy one that gives up', () => {
    const bench = new Bench({ countMax: 4, weightMax: 100 })
    bench.enter('light', { weight: 10 })
    bench.enter('heavy', { weight: 1000 })
    bench.enter('later', { weight: 1 })
    bench.leave('heavy')
    expect(bench.order).toEqual(['light', 'later'])
    bench.leave('heavy', 'light', 'light', 'later')
    expect(bench.gate.admitted).toBe(0)
  })

  it('gives turns to the tenants, and within a tenant to its restores', () => {
    const bench = new Bench({ countMax: 1 })
    bench.enter('first')
    for (let number = 0; number < 6; number++) bench.enter(`a1 ${number}`, { owner: of('a', '1') })
    for (let number = 0; number < 2; number++) bench.enter(`a2 ${number}`, { owner: of('a', '2') })
    for (let number = 0; number < 3; number++) bench.enter(`b ${number}`, { owner: of('b') })
    expect(bench.drain()).toEqual(['a1 0', 'b 0', 'a2 0', 'b 1', 'a1 1', 'b 2', 'a2 1', 'a1 2', 'a1 3', 'a1 4', 'a1 5'])
  })

  it('refuses a restore that waits too often, and nobody else, in no other class', () => {
    const bench = new Bench({ countMax: 1, waitingMax: 2 })
    bench.enter('first')
    const prefetch = { urgency: urgent('prefetch'), owner: of('a', '1') }
    for (const name of ['1', '2']) bench.enter(name, prefetch)
    expect(codeOf(() => bench.enter('3', prefetch))).toBe('UNAVAILABLE')
    bench.enter('demand', { owner: of('a', '1') })
    bench.enter('other', { ...prefetch, owner: of('a', '2') })
    expect(bench.drain()).toEqual(['demand', '1', 'other', '2'])
  })

  it('with keepsFree leaves room to those who hold nothing, whatever a restore or a tenant holds', () => {
    const heldBy = (owners: readonly Owner[]): number[] => {
      const bench = new Bench({ countMax: 64, keepsFree: true })
      for (const [at, owner] of owners.entries()) for (let number = 0; number < 100; number++) bench.enter(`${at}`, { owner })
      bench.enter('last', { owner: of('last') })
      expect(bench.order.at(-1)).toBe('last')
      return owners.map((_, at) => bench.order.filter(name => name === `${at}`).length)
    }
    expect(heldBy([of('a'), of('b'), of('c')])).toEqual([32, 16, 8])
    expect(heldBy([of('a', '1'), of('a', '2'), of('a', '3')])).toEqual([32, 16, 0])
    expect(heldBy([of('', '1'), of('', '2'), of('', '3')])).toEqual([32, 16, 8])
  })

  it('with keepsFree passes over a restore that holds its share, not over its neighbours', () => {
    const bench = new Bench({ countMax: 4, keepsFree: true })
    for (let number = 0; number < 4; number++) bench.enter(`1 ${number}`, { owner: of('a', '1') })
    bench.enter('2', { owner: of('a', '2') })
    expect(bench.order).toEqual(['1 0', '1 1', '2'])
  })

  it('with keepsFree has room for a demand of a restore whose prefetches hold all that they may', () => {
    const bench = new Bench({ countMax: 64, keepsFree: true })
    for (let number = 0; number < 100; number++) bench.enter(`${number}`, { urgency: urgent('prefetch') })
    bench.enter('demand')
    expect([bench.gate.admitted, bench.order.at(-1)]).toEqual([33, 'demand'])
  })

  it('with keepsFree leaves room to what others do in bulk, whatever one tenant’s prefetches hold', () => {
    const bench = new Bench({ countMax: 64, keepsFree: true })
    for (const tenant of ['a', 'b', 'c'])
      for (let number = 0; number < 100; number++) bench.enter(`${tenant} ${number}`, { owner: of(tenant), urgency: urgent('prefetch') })
    const held = ['a', 'b', 'c'].map(tenant => bench.order.filter(name => name.startsWith(tenant)).length)
    expect(held).toEqual([32, 12, 3])
    bench.enter('d', { owner: of('d'), urgency: urgent('bulk') })
    expect(bench.order.at(-1)).toBe('d')
  })

  it('admits one of a lower class that waits behind so many demands, however many more there are', () => {
    const bench = new Bench({ countMax: 1 })
    bench.enter('first')
    for (const priority of ['prefetch', 'bulk'] as const) {
      for (const number of [1, 2]) bench.enter(`${priority} ${number}`, { urgency: urgent(priority) })
    }
    for (let number = 0; number < 80; number++) bench.enter(`${number}`)
    const order = bench.drain()
    const lower = ['bulk 1', 'bulk 2', 'prefetch 1', 'prefetch 2']
    expect(lower.map(name => order.indexOf(name))).toEqual([16, 33, 50, 67])
  })

  it('admits what several wait for when it is the turn of any of them, and on his behalf', () => {
    const bench = new Bench({ countMax: 4, keepsFree: true })
    for (let number = 0; number < 100; number++) bench.enter(`a ${number}`, { owner: of('a', `${number}`) })
    const owners = new Owners(of('a'))
    bench.enter('shared', { owner: owners })
    bench.enter('b', { owner: of('b') })
    expect(bench.order).toEqual(['a 0', 'a 1', 'a 2', 'b'])
    owners.add(of('b'))
    owners.add(of('b'))
    bench.leave('b')
    expect(bench.order.at(-1)).toBe('shared')
    bench.leave('shared')
    expect([bench.gate.admitted, bench.gate.waiting, bench.drain().length]).toEqual([3, 97, 97])
  })

  it('asks whether there is what it is for, and again when it is told to look', () => {
    let left = 1
    const bench = new Bench({ countMax: 8, isReady: () => left-- > 0 })
    bench.enter('a')
    left = 0
    bench.enter('b')
    expect(bench.order).toEqual(['a'])
    left = 1
    bench.gate.look()
    expect(bench.order).toEqual(['a', 'b'])
  })

  it('admits thousands who leave at once without growing the stack, in time that does not grow with their number', () => {
    const gate = new Gate({ countMax: 1, waitingMax: 200_000 })
    const first = gate.enter({}, () => undefined)
    let admitted = 0
    for (let number = 0; number < 100_000; number++) {
      gate.enter({}, place => {
        admitted++
        place.leave()
      })
    }
    first.leave()
    expect([admitted, gate.admitted, gate.waiting]).toEqual([100_000, 0, 0])
  })

  it('with promises: an abort leaves the queue, and a place that was admitted stays', async () => {
    const gate = new Gate({ countMax: 1 })
    const aborter = new AbortController()
    const first = await gate.admit({}, aborter.signal)
    const waiting = codeOfAsync(() => gate.admit({}, aborter.signal))
    const prefetch = gate.admit({ urgency: urgent('prefetch') })
    aborter.abort(new EvalError('gone'))
    expect(await waiting).toBe('EvalError')
    expect([gate.admitted, gate.waiting]).toEqual([1, 1])
    expect(await codeOfAsync(() => gate.admit({}, aborter.signal))).toBe('EvalError')
    expect(gate.tryEnter()).toBe(undefined)
    first.leave()
    ;(await prefetch).leave()
    expect([gate.admitted, gate.waiting]).toEqual([0, 0])
  })

  it('with promises: whoever passes those that wait may abort later, and keeps his place', async () => {
    const gate = new Gate({ countMax: 4 })
    for (let number = 0; number < 3; number++) await gate.admit({ urgency: urgent('prefetch') })
    const waits = gate.admit({ urgency: urgent('prefetch') })
    const aborter = new AbortController()
    const demand = await gate.admit({}, aborter.signal)
    aborter.abort()
    expect([gate.admitted, gate.waiting]).toEqual([4, 1])
    demand.leave()
    expect(gate.admitted).toBe(3)
    void waits
  })
})

/** What the model knows of one that came. */
interface Modelled {
  readonly name: string
  /** All for whom it came. */
  readonly owner: Owners
  readonly weight: number
  readonly urgency: Urgency
  class: Priority
  /** For whom it was admitted. */
  admittedFor: Owner | undefined
}

/** One of those for whom it waits. */
interface ModelledTicket {
  readonly one: Modelled
  readonly owner: Owner
}

interface ModelBounds {
  readonly countMax: number
  readonly weightMax: number
  readonly keepsFree: boolean
}

/** The same rules, told plainly: lists, looked through from the start each time. */
class Model {
  readonly #bounds: ModelBounds
  readonly admitted: Modelled[] = []
  readonly #tickets: ModelledTicket[] = []
  /** Of each class, the tenants and restores that wait, in the order of their turns. */
  readonly #turns = new Map<Priority, { readonly tenant: string; readonly restores: string[] }[]>(PRIORITIES.map(name => [name, []]))
  readonly order: string[] = []
  #inARow = 0

  constructor(bounds: ModelBounds) {
    this.#bounds = bounds
  }

  enter(one: Modelled): void {
    this.#addAll(one)
    this.#look()
  }

  leave(one: Modelled): void {
    if (this.admitted.includes(one)) this.admitted.splice(this.admitted.indexOf(one), 1)
    else this.#removeAll(one)
    this.#look()
  }

  raise(one: Modelled, to: Priority): void {
    if (!this.#isWaiting(one) || PRIORITIES.indexOf(to) >= PRIORITIES.indexOf(one.class)) return
    this.#removeAll(one)
    one.class = to
    this.#addAll(one)
    this.#look()
  }

  /** Before it is told to those who wait. */
  join(one: Modelled, owner: Owner): void {
    const isNew = !one.owner.all.some(({ tenant, restore }) => tenant === owner.tenant && restore === owner.restore)
    if (!isNew || !this.#isWaiting(one)) return
    this.#add({ one, owner })
    this.#look()
  }

  #isWaiting(one: Modelled): boolean {
    return this.#tickets.some(ticket => ticket.one === one)
  }

  #addAll(one: Modelled): void {
    for (const owner of one.owner.all) this.#add({ one, owner })
  }

  #removeAll(one: Modelled): void {
    for (const ticket of this.#tickets.filter(ticket => ticket.one === one)) this.#remove(ticket)
  }

  #add(ticket: ModelledTicket): void {
    this.#tickets.push(ticket)
    const { one, owner } = ticket
    const tenants = this.#turns.get(one.class)!
    const tenant = tenants.find(({ tenant }) => tenant === owner.tenant) ?? { tenant: owner.tenant, restores: [] }
    if (!tenants.includes(tenant)) tenants.push(tenant)
    if (!tenant.restores.includes(owner.restore)) tenant.restores.push(owner.restore)
  }

  #of(name: Priority, tenant: string, restore: string): ModelledTicket[] {
    return this.#tickets.filter(({ one, owner }) => one.class === name && owner.tenant === tenant && owner.restore === restore)
  }

  #remove(ticket: ModelledTicket): void {
    this.#tickets.splice(this.#tickets.indexOf(ticket), 1)
    const { one, owner } = ticket
    if (this.#of(one.class, owner.tenant, owner.restore).length > 0) return
    const tenants = this.#turns.get(one.class)!
    const at = tenants.findIndex(each => each.tenant === owner.tenant)
    tenants[at]!.restores.splice(tenants[at]!.restores.indexOf(owner.restore), 1)
    if (tenants[at]!.restores.length === 0) tenants.splice(at, 1)
  }

  #look(): void {
    for (let next = this.#next(); next !== undefined; next = this.#next()) {
      const { one, owner } = next
      // Its restore and its tenant go to the end, with all that stood before them in vain.
      const tenants = this.#turns.get(one.class)!
      const at = tenants.findIndex(({ tenant }) => tenant === owner.tenant)
      const { restores } = tenants[at]!
      restores.push(...restores.splice(0, restores.indexOf(owner.restore) + 1))
      tenants.push(...tenants.splice(0, at + 1))
      this.#removeAll(one)
      this.#inARow = one.class === 'demand' && this.#tickets.length > 0 ? this.#inARow + 1 : 0
      one.admittedFor = owner
      this.admitted.push(one)
      this.order.push(one.name)
    }
  }

  #next(): ModelledTicket | undefined {
    const late = this.#inARow >= 16 ? this.#firstOf(['bulk', 'prefetch']) : undefined
    const ticket = late !== undefined && this.#hasRoom(late.one) ? late : this.#firstOf(PRIORITIES)
    return ticket !== undefined && this.#hasRoom(ticket.one) ? ticket : undefined
  }

  #firstOf(classes: readonly Priority[]): ModelledTicket | undefined {
    for (const name of classes) {
      for (const { tenant, restores } of this.#turns.get(name)!) {
        for (const restore of restores) {
          const [ticket] = this.#of(name, tenant, restore)
          if (this.#isWithinShare(ticket!)) return ticket
        }
      }
    }
    return undefined
  }

  #isWithinShare({ one, owner }: ModelledTicket): boolean {
    const { countMax, weightMax, keepsFree } = this.#bounds
    const isDemand = (each: Modelled): boolean => each.class === 'demand'
    if (!keepsFree) return true
    const alike = this.admitted.filter(each => each.admittedFor!.tenant === owner.tenant && isDemand(each) === isDemand(one))
    const same = alike.filter(each => each.admittedFor!.restore === owner.restore)
    const lower = this.admitted.filter(each => !isDemand(each))
    const fits = (held: readonly Modelled[], times: number, share: number, among: readonly Modelled[]): boolean =>
      held.length === 0 ||
      (held.length + 1 <= times * (Math.floor(share * countMax) - among.length - 1) &&
        weightOf(held) + one.weight <= times * (Math.floor(share * weightMax) - weightOf(among) - one.weight))
    const tenants = owner.tenant === '' ? same : alike
    return fits(same, 1, 1, this.admitted) && fits(tenants, 3, 1, this.admitted) && (isDemand(one) || fits(tenants, 3, 0.75, lower))
  }

  #hasRoom(one: Modelled): boolean {
    const { countMax, weightMax } = this.#bounds
    const fits = (held: readonly Modelled[], count: number, weight: number): boolean =>
      held.length === 0 || (held.length + 1 <= count && weightOf(held) + one.weight <= weight)
    const lower = this.admitted.filter(each => each.class !== 'demand')
    return (
      fits(this.admitted, countMax, weightMax) &&
      (one.class === 'demand' || fits(lower, Math.floor(countMax * 0.75), Math.floor(weightMax * 0.75)))
    )
  }
}

function weightOf(all: readonly Modelled[]): number {
  return all.reduce((sum, { weight }) => sum + weight, 0)
}

describe('a gate and its model', () => {
  const priority = fc.constantFrom(...PRIORITIES)
  const step = fc.oneof(
    fc.record({
      do: fc.constant('enter' as const),
      tenant: fc.constantFrom('a', 'b', ''),
      restore: fc.constantFrom('1', '2'),
      weight: fc.nat(6),
      priority,
    }),
    fc.record({ do: fc.constant('leave' as const), which: fc.nat() }),
    fc.record({ do: fc.constant('raise' as const), which: fc.nat(), priority }),
    fc.record({
      do: fc.constant('join' as const),
      which: fc.nat(),
      tenant: fc.constantFrom('a', 'b', 'c'),
      restore: fc.constantFrom('1', '2'),
    }),
  )
  const bounds = fc.record({
    countMax: fc.integer({ min: 1, max: 9 }),
    weightMax: fc.integer({ min: 1, max: 16 }),
    keepsFree: fc.boolean(),
  })

  it('admit the same in the same order', () => {
    fc.assert(
      fc.property(bounds, fc.array(step, { maxLength: 60 }), (bounds, steps) => {
        const bench = new Bench(bounds)
        const model = new Model(bounds)
        const all: Modelled[] = []
        for (const step of steps) {
          const one = step.do === 'enter' ? undefined : all[step.which % Math.max(1, all.length)]
          if (step.do === 'enter') {
            const { tenant, restore, weight } = step
            const entering: Modelled = {
              name: `${all.length}`,
              owner: new Owners({ tenant, restore }),
              weight,
              urgency: urgent(step.priority),
              class: step.priority,
              admittedFor: undefined,
            }
            all.push(entering)
            model.enter(entering)
            bench.enter(entering.name, entering)
          } else if (one === undefined) continue
          else if (step.do === 'leave') {
            model.leave(one)
            bench.leave(one.name)
          } else if (step.do === 'join') {
            model.join(one, of(step.tenant, step.restore))
            one.owner.add(of(step.tenant, step.restore))
          } else {
            model.raise(one, step.priority)
            one.urgency.raise(step.priority)
          }
          expect(bench.order).toEqual(model.order)
          expect(bench.gate.admitted).toBe(model.admitted.length)
        }
        for (const { name } of all) bench.leave(name)
        expect([bench.gate.admitted, bench.gate.waiting]).toEqual([0, 0])
      }),
      { numRuns: 1000 },
    )
  })
})
