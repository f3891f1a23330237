import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type MetricsServer, metricsText, type ReadFigures, serveMetrics, type TierFigures } from '../src/index.ts'
import { Histogram } from '../src/util/histogram.ts'
import { codeOfAsync } from './code-of.ts'

function distribution(...durationsMs: number[]) {
  const histogram = new Histogram()
  for (const ms of durationsMs) histogram.record(ms)
  return histogram.read()
}

const TIER: TierFigures = {
  hits: 3,
  misses: 4,
  bytes: 5000,
  errors: 6,
  corrupt: 7,
  healed: 8,
  fills: 9,
  fillsDropped: 10,
  latency: distribution(0.0015, 0.5, 2000),
}

const { latency: _, ...COUNTS } = TIER
const FIGURES: ReadFigures = {
  memory: { ...COUNTS, chunks: 11, chunksMax: 12, evictions: 13 },
  disk: TIER,
  l2: undefined,
  origin: { ...TIER, hedges: 14, hedgesWon: 15, underWay: 16, underWayMax: 17, queue: distribution(1) },
  engine: { delay: distribution(1, 70) },
}

const source = { stats: async () => FIGURES }

/** Value by metric with its labels, as Prometheus would read the text. */
function valuesOf(text: string): Map<string, number> {
  const lines = text.split('\n').filter(line => line !== '' && !line.startsWith('#'))
  return new Map(lines.map(line => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ') + 1))]))
}

describe('metricsText', () => {
  let text: string
  let values: Map<string, number>

  beforeEach(async () => {
    text = await metricsText(source)
    values = valuesOf(text)
  })

  it.each([
    ['thaw_tier_hits_total{tier="memory"}', 3],
    ['thaw_tier_misses_total{tier="disk"}', 4],
    ['thaw_tier_bytes_total{tier="origin"}', 5000],
    ['thaw_tier_errors_total{tier="disk"}', 6],
    ['thaw_tier_corrupt_total{tier="disk"}', 7],
    ['thaw_tier_healed_total{tier="disk"}', 8],
    ['thaw_tier_fills_total{tier="disk"}', 9],
    ['thaw_tier_fills_dropped_total{tier="disk"}', 10],
    ['thaw_memory_chunks', 11],
    ['thaw_memory_chunks_max', 12],
    ['thaw_memory_evictions_total', 13],
    ['thaw_origin_hedges_total', 14],
    ['thaw_origin_hedges_won_total', 15],
    ['thaw_origin_reads_under_way', 16],
    ['thaw_origin_queue_seconds_count', 1],
    ['thaw_engine_delay_seconds_count', 2],
    ['thaw_engine_delay_seconds_sum', 0.071],
    ['thaw_tier_latency_seconds_count{tier="memory"}', undefined],
  ])('has %s', (name, value) => {
    expect(values.get(name)).toBe(value)
  })

  it('leaves out tiers that are not there', () => {
    expect(text).not.toContain('"l2"')
  })

  it('has latencies in seconds, each bucket with those before it', () => {
    const bucket = (le: string) => values.get(`thaw_tier_latency_seconds_bucket{le="${le}",tier="disk"}`)
    expect(['0.000001', '0.000002', '0.000512', '1.048576', '2.097152', '+Inf'].map(bucket)).toEqual([0, 1, 2, 2, 3, 3])
    expect(values.get('thaw_tier_latency_seconds_count{tier="disk"}')).toBe(3)
    expect(values.get('thaw_tier_latency_seconds_sum{tier="disk"}')).toBeCloseTo(2.0005, 4)
  })

  it('says what each means, and has the figures of the process', () => {
    const named = new Set([...text.matchAll(/^# HELP (\S+) \S/gm)].map(([, name]) => name))
    const used = [...values.keys()].map(name => name.replace(/\{.*/, '').replace(/_(bucket|sum|count)$/, ''))
    expect(used.filter(name => name.startsWith('thaw_') && !named.has(name))).toEqual([])
    expect(used).toContain('process_cpu_seconds_total')
  })
})

describe('serveMetrics', () => {
  const servers: MetricsServer[] = []
  const serve = async (options: Parameters<typeof serveMetrics>[1], from = source) => {
    const server = await serveMetrics(from, options)
    servers.push(server)
    return server
  }

  afterEach(async () => {
    for (const server of servers.splice(0)) await server.close()
  })

  it('answers GET /metrics, and nothing else', async () => {
    const { url } = await serve({ port: 0 })
    const answer = await fetch(url)
    expect(answer.headers.get('content-type')).toMatch(/^text\/plain; version=0\.0\.4/)
    expect(valuesOf(await answer.text()).get('thaw_memory_chunks')).toBe(11)
    expect((await fetch(new URL('/', url))).status).toBe(404)
    expect((await fetch(url, { method: 'POST' })).status).toBe(404)
  })

  it('says 503 where there are no figures any more', async () => {
    const { url } = await serve({ port: 0 }, { stats: () => Promise.reject(new Error('closed')) })
    expect((await fetch(url)).status).toBe(503)
  })

  it('fails if the port is taken', async () => {
    const { url } = await serve({ port: 0 })
    expect(await codeOfAsync(() => serve({ port: Number(new URL(url).port) }))).toBe('UNAVAILABLE')
  })

  it('ends once, by close or by its signal', async () => {
    const controller = new AbortController()
    const server = await serve({ port: 0, signal: controller.signal })
    controller.abort()
    await server.close()
    await server.close()
    await expect(fetch(server.url)).rejects.toThrow()
  })
})
