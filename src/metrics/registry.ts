/**
 * Figures as prom-client's metrics: names, help texts, units. Prometheus wants seconds and bytes; the names are a contract with dashboards.
 *
 * A registry is made for each question and holds ready values. Buckets are every second of those that are counted, so each bound is twice the one before.
 */
import type * as Prom from 'prom-client'
import type { ReadFigures, TierFigures } from '../stats.ts'
import { BUCKETS_MS, type Distribution } from '../util/histogram.ts'

type Client = typeof Prom
type TierName = keyof Omit<ReadFigures, 'engine'>
/** What there is of memory too. */
type AnyFigures = Omit<TierFigures, 'latency'>

/** In a second. */
const MS = 1000
const TIERS: readonly TierName[] = ['memory', 'disk', 'l2', 'origin']

/** Of each tier: name, help, figure. */
const TIER_COUNTERS: readonly (readonly [string, string, keyof AnyFigures])[] = [
  ['thaw_tier_hits_total', 'Chunks and manifests that a tier served, each time with good bytes', 'hits'],
  ['thaw_tier_misses_total', 'Chunks and manifests that a tier was asked for and did not have', 'misses'],
  ['thaw_tier_bytes_total', 'Bytes that a tier served: of pages for memory, sealed ones for the others', 'bytes'],
  ['thaw_tier_errors_total', 'Calls of a tier that failed: down, too slow, refused', 'errors'],
  ['thaw_tier_corrupt_total', 'Reads of a tier whose bytes were not those of their id', 'corrupt'],
  ['thaw_tier_healed_total', 'Bad copies in a tier that were replaced by good ones', 'healed'],
  ['thaw_tier_fills_total', 'Copies written to a tier after another one served', 'fills'],
  ['thaw_tier_fills_dropped_total', 'Copies not written to a tier: too many on their way, no room, down', 'fillsDropped'],
]

export function cacheRegistry(client: Client, figures: ReadFigures): Prom.Registry {
  const registry = new client.Registry()
  const registers = [registry]
  const { memory, disk, l2, origin, engine } = figures
  const counter = (name: string, help: string, value: number): void => new client.Counter({ name, help, registers }).inc(value)
  const gauge = (name: string, help: string, value: number): void => new client.Gauge({ name, help, registers }).set(value)

  const tiers = TIERS.flatMap((tier): [TierName, AnyFigures][] => {
    const of = figures[tier]
    return of === undefined ? [] : [[tier, of]]
  })
  for (const [name, help, figure] of TIER_COUNTERS) {
    const perTier = new client.Counter({ name, help, labelNames: ['tier'], registers })
    for (const [tier, of] of tiers) perTier.inc({ tier }, of[figure])
  }
  histogram(client, registry, {
    name: 'thaw_tier_latency_seconds',
    help: 'Seconds from the question to a tier until its bytes, hits only',
    of: Object.entries({ disk, l2, origin }).flatMap(([tier, of]) => (of ? [{ labels: { tier }, distribution: of.latency }] : [])),
  })
  counter('thaw_origin_hedges_total', 'Second requests to the store, sent because the first was slow', origin.hedges)
  counter('thaw_origin_hedges_won_total', 'Second requests to the store that answered before the first', origin.hedgesWon)
  gauge('thaw_origin_reads_under_way', 'Reads of the store under way', origin.underWay)
  histogram(client, registry, {
    name: 'thaw_origin_queue_seconds',
    help: 'Seconds that reads of the store waited for their turn',
    of: [{ labels: {}, distribution: origin.queue }],
  })
  histogram(client, registry, {
    name: 'thaw_engine_delay_seconds',
    help: 'Seconds by which the thread that serves misses was late for what was due',
    of: [{ labels: {}, distribution: engine.delay }],
  })
  gauge('thaw_memory_chunks', 'Opened chunks in memory', memory.chunks)
  gauge('thaw_memory_chunks_max', 'Opened chunks that memory has room for', memory.chunksMax)
  counter('thaw_memory_evictions_total', 'Opened chunks that left memory for others', memory.evictions)
  return registry
}

let ofProcess: Prom.Registry | undefined

/** prom-client's own figures of the process: CPU, memory, event loop, collector. Made once, because they watch from then on. */
export function processRegistry(client: Client): Prom.Registry {
  if (ofProcess !== undefined) return ofProcess
  ofProcess = new client.Registry()
  client.collectDefaultMetrics({ register: ofProcess })
  return ofProcess
}

interface Distributions {
  readonly name: string
  readonly help: string
  readonly of: readonly { readonly labels: Readonly<Record<string, string>>; readonly distribution: Distribution }[]
}

/** One line of a metric. */
interface Sample {
  readonly metricName: string
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
}

/** A histogram whose counts are given: prom-client's own can only be told one duration after the other. */
function histogram(client: Client, registry: Prom.Registry, { name, help, of }: Distributions): void {
  class Ready extends client.Histogram {
    /** What a registry asks for its lines. */
    async getForPromString(): Promise<object> {
      return { name, help, type: 'histogram', values: of.flatMap(({ labels, distribution }) => samplesOf(name, labels, distribution)) }
    }
  }
  registry.registerMetric(new Ready({ name, help, registers: [] }))
}

/** Buckets count what is at most their bound, so each includes those before it. The bounds at even places are powers of two of a microsecond. */
function samplesOf(name: string, labels: Sample['labels'], { count, sumMs, buckets }: Distribution): Sample[] {
  let below = 0
  const lines = BUCKETS_MS.flatMap((boundMs, at): Sample[] => {
    below += buckets[at] ?? 0
    return at % 2 === 0 ? [{ metricName: `${name}_bucket`, labels: { le: String(boundMs / MS), ...labels }, value: below }] : []
  })
  return [
    ...lines,
    { metricName: `${name}_bucket`, labels: { le: '+Inf', ...labels }, value: count },
    { metricName: `${name}_sum`, labels, value: sumMs / MS },
    { metricName: `${name}_count`, labels, value: count },
  ]
}
