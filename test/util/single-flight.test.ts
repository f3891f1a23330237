import { describe, expect, it } from 'vitest'
import { type Flight, type FlightWaiter, SingleFlight } from '../../src/util/single-flight.ts'
import { Urgency } from '../../src/util/urgency.ts'
import { codeOfAsync } from '../code-of.ts'

interface Bench {
  readonly flights: SingleFlight<string, string>
  /** The works that were begun, in order. */
  readonly begun: { readonly flight: Flight; readonly succeed: (value: string) => void; readonly fail: (error: Error) => void }[]
  /** How many were to get each value. */
  readonly shared: [value: string, waiters: number][]
  readonly join: (waiter?: FlightWaiter) => Promise<string>
}

function bench(): Bench {
  const shared: Bench['shared'] = []
  const begun: Bench['begun'] = []
  const flights = new SingleFlight<string, string>((value, waiters) => void shared.push([value, waiters]))
  const work = (flight: Flight): Promise<string> =>
    new Promise((resolve, reject) => void begun.push({ flight, succeed: resolve, fail: reject }))
  return { flights, begun, shared, join: waiter => flights.join('key', work, waiter) }
}

describe('a flight', () => {
  it('is begun once for all who ask while it is under way, and anew for whoever comes later', async () => {
    const { flights, begun, shared, join } = bench()
    const all = [join(), join(), join()]
    expect([begun.length, flights.size]).toEqual([1, 1])
    begun[0]!.succeed('first')
    expect(await Promise.all(all)).toEqual(['first', 'first', 'first'])
    expect([shared, flights.size]).toEqual([[['first', 3]], 0])
    const later = join()
    begun[1]!.succeed('second')
    expect(await later).toBe('second')
  })

  it('fails for all who wait, and the next one who asks tries again', async () => {
    const { flights, begun, shared, join } = bench()
    const all = [codeOfAsync(join), codeOfAsync(join)]
    begun[0]!.fail(new RangeError('on purpose'))
    expect(await Promise.all(all)).toEqual(['RangeError', 'RangeError'])
    expect([flights.size, shared]).toEqual([0, []])
    const again = join()
    begun[1]!.succeed('well')
    expect(await again).toBe('well')
  })

  it('that cannot even begin leaves nothing behind', async () => {
    const { flights, begun, join } = bench()
    const cannot = (): Promise<string> => {
      throw new RangeError('on purpose')
    }
    expect(await codeOfAsync(async () => flights.join('key', cannot))).toBe('RangeError')
    const next = join()
    begun[0]!.succeed('well')
    expect(await next).toBe('well')
  })

  it('goes on when the first who asked goes away', async () => {
    const { begun, shared, join } = bench()
    const aborter = new AbortController()
    const first = codeOfAsync(() => join({ signal: aborter.signal }))
    const second = join()
    aborter.abort(new EvalError('gone'))
    expect(await first).toBe('EvalError')
    expect(begun[0]!.flight.signal.aborted).toBe(false)
    begun[0]!.succeed('there')
    expect([await second, shared]).toEqual(['there', [['there', 1]]])
  })

  it('ends when the last one went away, and nobody joins it from then on', async () => {
    const { flights, begun, shared, join } = bench()
    const aborters = [new AbortController(), new AbortController()]
    const all = aborters.map(({ signal }) => codeOfAsync(() => join({ signal })))
    for (const aborter of aborters) aborter.abort(new EvalError('gone'))
    expect(await Promise.all(all)).toEqual(['EvalError', 'EvalError'])
    expect([begun[0]!.flight.signal.aborted, flights.size]).toEqual([true, 0])
    const next = join()
    begun[0]!.succeed('too late')
    begun[1]!.succeed('there')
    expect([await next, flights.size]).toEqual(['there', 0])
    expect(shared).toEqual([
      ['too late', 0],
      ['there', 1],
    ])
  })

  it('does not begin for somebody who is gone already', async () => {
    const { begun, join } = bench()
    expect(await codeOfAsync(async () => join({ signal: AbortSignal.abort(new EvalError('gone')) }))).toBe('EvalError')
    expect(begun).toEqual([])
  })

  it('is as urgent as the most urgent of those who wait', async () => {
    const { begun, join } = bench()
    const first = new Urgency('prefetch')
    const all = [join({ urgency: first }), join({ urgency: new Urgency('prefetch') })]
    const { urgency } = begun[0]!.flight
    expect(urgency.priority).toBe('prefetch')
    let raised = 0
    urgency.onRaise(() => raised++)
    first.raise()
    expect([urgency.priority, raised]).toEqual(['demand', 1])
    all.push(join())
    expect(raised).toBe(1)
    begun[0]!.succeed('there')
    await Promise.all(all)
  })

  it('becomes a demand when a demand joins it, and not by the urgency of somebody who went away', async () => {
    const { begun, join } = bench()
    const left = new Urgency('prefetch')
    const aborter = new AbortController()
    const all = [join({ urgency: new Urgency('prefetch') }), codeOfAsync(() => join({ urgency: left, signal: aborter.signal }))]
    aborter.abort(new EvalError('gone'))
    left.raise()
    expect(begun[0]!.flight.urgency.priority).toBe('prefetch')
    all.push(join())
    expect(begun[0]!.flight.urgency.priority).toBe('demand')
    begun[0]!.succeed('there')
    expect(await Promise.all(all)).toEqual(['there', 'EvalError', 'there'])
  })

  it('that is closed rejects with the reason, aborts its work, and ignores what that comes to', async () => {
    const { flights, begun, shared, join } = bench()
    const all = [codeOfAsync(join), codeOfAsync(join)]
    flights.close(new EvalError('closed'))
    expect(await Promise.all(all)).toEqual(['EvalError', 'EvalError'])
    expect([begun[0]!.flight.signal.aborted, flights.size]).toEqual([true, 0])
    begun[0]!.succeed('too late')
    await new Promise(setImmediate)
    expect(shared).toEqual([['too late', 0]])
  })
})
