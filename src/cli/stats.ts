/**
 * `thaw stats`: the running commands that read through caches, serve guests or were given a state folder, what each read from which tier, and what its guests did.
 */
import { type Distribution, type MemoryFigures, quantileOf, type RestoreFigures, type TierFigures } from '../index.ts'
import { readCacheSettings } from './cache-settings.ts'
import { type Column, formatAge, formatBytes, formatCount, formatLatency, formatShare, formatTable, oneLine, TIER_NAMES } from './format.ts'
import type { Invocation } from './invocation.ts'
import { type FoundSocket, findRunning } from './running.ts'
import { stateFolder } from './state-folder.ts'

const TIERS = ['memory', 'disk', 'l2', 'origin'] as const

const COLUMNS: readonly Column[] = [
  { title: 'TIER' },
  ...['HITS', 'MISSES', 'SHARE', 'BYTES', 'P50', 'P99', 'ERRORS', 'CORRUPT', 'HEALED'].map(title => ({ title, right: true })),
]

export async function showStats({ flags, output, signal }: Invocation): Promise<void> {
  const folder = stateFolder(readCacheSettings(flags).stateDir)
  const found = await findRunning(folder, signal)
  output.answer({ stateDir: folder, processes: found.map(documentOf) }, () => found.flatMap(linesOf))
  if (found.length === 0) output.note(`no command that can be asked is running (looked in ${folder})`)
}

function documentOf({ pid, socket, answer }: FoundSocket): object {
  if (answer === undefined) return { pid, socket, answered: false }
  const { command, startedAt, store, figures, restores } = answer
  const tiers = TIERS.map(tier => [tier, withQuantiles(figures[tier])])
  return {
    pid,
    socket,
    answered: true,
    command,
    startedAt,
    store,
    figures: { ...Object.fromEntries(tiers), engine: { delay: quantilesOf(figures.engine.delay) } },
    restores,
  }
}

/** What has a latency, with the quantiles people ask for; null of nothing. */
function withQuantiles(figures: MemoryFigures | TierFigures | undefined): object | undefined {
  if (!figures || !('latency' in figures)) return figures
  return { ...figures, latency: quantilesOf(figures.latency) }
}

function quantilesOf(distribution: Distribution): object {
  const quantile = (q: number): number | null => (distribution.count === 0 ? null : quantileOf(distribution, q))
  return { ...distribution, p50Ms: quantile(0.5), p99Ms: quantile(0.99) }
}

function linesOf({ pid, answer }: FoundSocket, index: number): string[] {
  const gap = index === 0 ? [] : ['']
  if (answer === undefined) return [...gap, `process ${pid} does not answer`]
  const { command, startedAt, store, figures, restores } = answer
  const rows = TIERS.flatMap(tier => (figures[tier] ? [rowOf(tier, figures[tier])] : []))
  const started = formatAge(new Date(startedAt))
  const title = oneLine(`process ${pid}: thaw ${command}, started ${started}, ${store}`)
  return [...gap, title, ...formatTable(COLUMNS, rows), ...restores.flatMap(restoreLines)]
}

const IMAGE_COLUMNS: readonly Column[] = [
  { title: 'IMAGE' },
  ...['HITS', 'MISSES', 'ZEROS', 'FAILURES', 'READ', 'WRITTEN', 'WAIT P50', 'WAIT P99'].map(title => ({ title, right: true })),
]

function restoreLines({ id, images }: RestoreFigures): string[] {
  const rows = images.map(({ name, hits, misses, zeros, failures, readBytes, writtenBytes, waits }) => [
    name,
    ...[hits, misses, zeros, failures].map(count => formatCount(count)),
    ...[readBytes, writtenBytes].map(bytes => formatBytes(bytes)),
    ...[0.5, 0.99].map(q => formatQuantile(waits, q)),
  ])
  return [`restore ${id}`, ...formatTable(IMAGE_COLUMNS, rows)]
}

function rowOf(tier: (typeof TIERS)[number], figures: MemoryFigures | TierFigures): string[] {
  const { hits, misses, bytes, errors, corrupt, healed } = figures
  const quantiles = [0.5, 0.99].map(q => ('latency' in figures ? formatQuantile(figures.latency, q) : '–'))
  const counts = [errors, corrupt, healed].map(count => formatCount(count))
  return [
    TIER_NAMES[tier],
    formatCount(hits),
    formatCount(misses),
    formatShare(hits, hits + misses),
    formatBytes(bytes),
    ...quantiles,
    ...counts,
  ]
}

function formatQuantile(latency: Distribution, q: number): string {
  return latency.count === 0 ? '–' : formatLatency(quantileOf(latency, q))
}
