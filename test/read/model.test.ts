/**
 * The read path against a plain byte array: a snapshot that was really pushed, a real engine with an arena far smaller than the snapshot, two caches and a store that go
 * wrong as a seed says, restarts, all in virtual time. Every read gives the bytes of the array, its own abort, or a typed error with the tier, before its deadline; and when
 * the faults are over every read is right.
 */
import fc from 'fast-check'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { LocalEngine } from '../../src/engine/local.ts'
import { isThawError } from '../../src/errors.ts'
import type { Snapshot } from '../../src/index.ts'
import { type Fault, faultStore, VirtualClock } from '../../src/testing.ts'
import { Urgency } from '../../src/util/urgency.ts'
import { type CacheFault, FakeCache } from '../fault/fake-cache.ts'
import { openThrough, type PushedImage, pushedImage } from '../fault/read-path.ts'

const RANGES = 40
const RANGE_BYTES = 512 * 1024
const ORIGIN_TIMEOUT_MS = 2_000
/** What may pass is asked for again until the deadline of the engine. A read spans few enough chunks that all are wanted at once. */
const DEADLINE_MS = 60_000
const LENGTH_MAX = 6 * RANGE_BYTES
const CODES = ['UNAVAILABLE', 'TIMEOUT', 'CORRUPT']

const CACHE_FAULTS: readonly CacheFault[] = ['fail', 'timeout', 'miss', 'flip', 'truncate', 'late']
const ORIGIN_FAULTS: readonly Fault[] = [
  { kind: 'fail', when: 'before' },
  { kind: 'fail', when: 'after' },
  { kind: 'truncate' },
  { kind: 'flip' },
  { kind: 'hang' },
  { kind: 'delay', delayMs: 700 },
]

type Step =
  | { readonly do: 'read'; readonly reads: readonly ReadSpec[] }
  /** Shares of calls that go wrong, in percent. */
  | { readonly do: 'faults'; readonly disk: number; readonly l2: number; readonly origin: number }
  | { readonly do: 'rot'; readonly tier: 'disk' | 'l2'; readonly entry: number }
  | { readonly do: 'clear'; readonly tier: 'disk' | 'l2' }
  | { readonly do: 'wait'; readonly ms: number }
  | { readonly do: 'restart' }

interface ReadSpec {
  readonly offset: number
  readonly length: number
  readonly abortAfterMs: number | undefined
  readonly isPrefetch: boolean
}

const share = fc.oneof(fc.constant(0), fc.constant(100), fc.integer({ min: 0, max: 60 }))
const tier = fc.constantFrom('disk' as const, 'l2' as const)
const read = fc.record({
  offset: fc.nat(RANGES * RANGE_BYTES),
  length: fc.oneof(fc.nat(3 * 4096), fc.nat(LENGTH_MAX)),
  abortAfterMs: fc.option(fc.nat(300), { nil: undefined, freq: 4 }),
  isPrefetch: fc.boolean(),
})
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 8, arbitrary: fc.record({ do: fc.constant('read' as const), reads: fc.array(read, { minLength: 1, maxLength: 12 }) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('faults' as const), disk: share, l2: share, origin: share }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('rot' as const), tier, entry: fc.nat(RANGES) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('clear' as const), tier }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('wait' as const), ms: fc.nat(5_000) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('restart' as const) }) },
)

let pushed: PushedImage

beforeAll(async () => {
  pushed = await pushedImage(RANGES)
})
afterAll(() => pushed[Symbol.asyncDispose]())

class Host {
  readonly clock: VirtualClock
  readonly faults = { disk: 0, l2: 0, origin: 0 }
  readonly entries = { disk: new Map<string, Buffer>(), l2: new Map<string, Buffer>() }
  outcomes = { right: 0, failed: 0, aborted: 0 }
  #engine!: LocalEngine
  #caches!: Record<'disk' | 'l2', FakeCache>
  #snapshot!: Snapshot

  constructor(seed: number) {
    this.clock = new VirtualClock(seed)
  }

  /** A new process over the caches there are. */
  async start(): Promise<void> {
    const { clock } = this
    const saved = { ...this.faults }
    Object.assign(this.faults, { disk: 0, l2: 0, origin: 0 })
    const cache = (tier: 'disk' | 'l2', delayMs: number): FakeCache => {
      const made = new FakeCache(tier, { clock, entries: this.entries[tier], delayMs })
      made.plan = () => this.#fault(tier, CACHE_FAULTS)
      return made
    }
    this.#caches = { disk: cache('disk', 0.2), l2: cache('l2', 1) }
    const objects = faultStore(pushed.objects, {
      clock,
      seed: Math.floor(clock.random() * 2 ** 31),
      plan: () => this.#fault('origin', ORIGIN_FAULTS),
    })
    const { disk, l2 } = this.#caches
    this.#engine = new LocalEngine({ memoryBytes: 0, caches: [disk, l2], origin: { timeoutMs: ORIGIN_TIMEOUT_MS }, clock })
    const store = await clock.run(openThrough(objects, pushed.keyring, this.#engine))
    this.#snapshot = await clock.run(store.open(pushed.id))
    Object.assign(this.faults, saved)
  }

  stop(): Promise<void> {
    return this.clock.run(this.#engine.close())
  }

  async take(step: Step): Promise<void> {
    if (step.do === 'read') await this.clock.run(Promise.all(step.reads.map(spec => this.#read(spec))))
    else if (step.do === 'faults') Object.assign(this.faults, { disk: step.disk, l2: step.l2, origin: step.origin })
    else if (step.do === 'rot') this.#rot(step.tier, step.entry)
    else if (step.do === 'clear') await this.#engine.clear([step.tier])
    else if (step.do === 'wait') await this.clock.advance(step.ms)
    else {
      await this.stop()
      await this.start()
    }
  }

  /** All is well again: every byte, by reads of all sizes. */
  async settle(): Promise<void> {
    Object.assign(this.faults, { disk: 0, l2: 0, origin: 0 })
    const failed = this.outcomes.failed
    for (let offset = 0; offset < pushed.image.length; offset += LENGTH_MAX) {
      await this.clock.run(this.#read({ offset, length: LENGTH_MAX, abortAfterMs: undefined, isPrefetch: false }))
    }
    expect(this.outcomes.failed).toBe(failed)
    await this.clock.run(this.#engine.settled())
    const { memory, origin } = await this.#engine.figures()
    expect([memory.chunks, origin.underWay]).toEqual([memory.chunksMax, 0])
    expect(new Int32Array(this.#engine.arena.memory.pins).every(pins => pins === 0)).toBe(true)
    for (const tier of ['disk', 'l2'] as const) expect(this.entries[tier].size).toBeLessThanOrEqual(RANGES + 1)
  }

  async #read({ offset, length, abortAfterMs, isPrefetch }: ReadSpec): Promise<void> {
    const aborter = new AbortController()
    let abortedMs = Number.POSITIVE_INFINITY
    const startedMs = this.clock.now()
    const callOff =
      abortAfterMs === undefined
        ? undefined
        : this.clock.after(abortAfterMs, () => {
            abortedMs = this.clock.now()
            aborter.abort(new EvalError('gone'))
          })
    try {
      const urgency = isPrefetch ? new Urgency('prefetch') : undefined
      const bytes = await this.#snapshot.image('memory').read(offset, length, { urgency, signal: aborter.signal })
      expect(pushed.image.subarray(offset, offset + length).equals(bytes)).toBe(true)
      this.outcomes.right++
    } catch (error) {
      if (error instanceof EvalError) {
        expect(this.clock.now()).toBe(abortedMs)
        this.outcomes.aborted++
        return
      }
      if (!isThawError(error)) throw error
      expect(CODES).toContain(error.code)
      expect(error.tier).toBe('origin')
      expect(this.clock.now() - startedMs).toBeLessThanOrEqual(DEADLINE_MS)
      this.outcomes.failed++
    } finally {
      callOff?.()
    }
  }

  #rot(tier: 'disk' | 'l2', entry: number): void {
    const ids = [...this.entries[tier].keys()]
    if (ids.length > 0) this.#caches[tier].rot(ids[entry % ids.length]!)
  }

  #fault<T>(tier: 'disk' | 'l2' | 'origin', faults: readonly T[]): T | undefined {
    return this.clock.random() * 100 < this.faults[tier] ? faults[Math.floor(this.clock.random() * faults.length)] : undefined
  }
}

it('gives the bytes of the image or a typed error in time, whatever fails; and the bytes when it is over', async () => {
  const total = { right: 0, failed: 0, aborted: 0 }
  await fc.assert(
    fc.asyncProperty(fc.integer(), fc.array(step, { minLength: 1, maxLength: 25 }), async (seed, steps) => {
      const host = new Host(seed)
      await host.start()
      for (const next of steps) await host.take(next)
      await host.settle()
      await host.stop()
      for (const outcome of ['right', 'failed', 'aborted'] as const) total[outcome] += host.outcomes[outcome]
    }),
    { numRuns: 40, interruptAfterTimeLimit: 12_000, markInterruptAsFailure: false },
  )
  // It did meet what it is about, however few runs a busy machine had time for.
  expect(total.right).toBeGreaterThan(100)
  expect(total.failed).toBeGreaterThan(0)
  expect(total.aborted).toBeGreaterThan(0)
})
