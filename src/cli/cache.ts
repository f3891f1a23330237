/** `thaw cache ls|clear|warm`: what lies in the caches that are set, and how it comes and goes. */
import assert from 'node:assert/strict'
import {
  type CacheDescription,
  type CacheTier,
  createCache,
  isThawError,
  type SnapshotStore,
  ThawError,
  type WarmProgress,
  type WarmResult,
} from '../index.ts'
import { type CacheSettings, readCacheSettings } from './cache-settings.ts'
import { connect } from './connect.ts'
import { UsageError } from './exit.ts'
import { type Column, formatBytes, formatCount, formatDuration, formatTable, formatTiers, oneLine, TIER_NAMES } from './format.ts'
import type { Invocation } from './invocation.ts'
import { ProgressLine, type ProgressView } from './progress.ts'
import { openCaches } from './read-through.ts'

export interface TierFlags {
  readonly tier?: readonly CacheTier[]
}

const UNKNOWN = '?'
/** For a cache that is only looked at. */
const NO_READS = { memoryBytes: 0, thread: 'main' } as const
const NONE_SET = 'no cache is set: name one with --cache-dir DIR or --l2 URL (THAW_CACHE_DIR, THAW_L2, or cacheDir and l2 in the config)'

const COLUMNS: readonly Column[] = [
  { title: 'TIER' },
  { title: 'STATE' },
  { title: 'ENTRIES', right: true },
  { title: 'BYTES', right: true },
  { title: 'MAX', right: true },
  { title: 'WHERE' },
  { title: 'REMARK' },
]

/** A tier that is down is an answer, not a failure. */
export async function listCaches({ flags, output }: Invocation): Promise<void> {
  const { disk, l2 } = readCacheSettings(flags)
  const tiers: CacheDescription[] = []
  if (disk !== undefined) tiers.push(await describe({ tier: 'disk', name: disk.path }, { disk }))
  if (l2 !== undefined) tiers.push(await describe({ tier: 'l2', name: 'L2' }, { l2 }))
  output.answer({ tiers }, () => (tiers.length === 0 ? [] : formatTable(COLUMNS, tiers.map(rowOf))))
  if (tiers.length === 0) output.note(NONE_SET)
}

/** Each tier is opened alone, so that one that cannot be opened does not hide the other. */
async function describe(
  known: Pick<CacheDescription, 'tier' | 'name'>,
  tier: Partial<Pick<CacheSettings, 'disk' | 'l2'>>,
): Promise<CacheDescription> {
  try {
    await using cache = await createCache({ ...NO_READS, ...tier })
    const [description] = await cache.describe()
    assert(description !== undefined)
    return description
  } catch (error) {
    if (!isThawError(error)) throw error
    const nothing = { entries: undefined, bytes: undefined, bytesMax: undefined, details: {} }
    return { ...known, state: 'down', remark: `${error.code}: ${error.message}`, ...nothing }
  }
}

function rowOf({ tier, name, state, remark, entries, bytes, bytesMax }: CacheDescription): string[] {
  const figure = (value: number | undefined, format: (value: number) => string): string => (value === undefined ? UNKNOWN : format(value))
  const figures = [figure(entries, formatCount), figure(bytes, formatBytes), figure(bytesMax, formatBytes)]
  return [TIER_NAMES[tier], state, ...figures, oneLine(name), oneLine(remark ?? '')]
}

export async function clearCaches({ flags, output }: Invocation, { tier: chosen }: TierFlags): Promise<void> {
  const { disk, l2 } = readCacheSettings(flags)
  requireTiers(chosen, { disk: disk !== undefined, l2: l2 !== undefined })
  await using cache = await createCache({ ...NO_READS, disk, l2 })
  const cleared = await cache.clear(chosen)
  output.done({ cleared }, () =>
    cleared.map(({ tier, name, entries }) => `${TIER_NAMES[tier]}: removed ${formatEntries(entries)} from ${oneLine(name)}`),
  )
}

export async function warmCaches(invocation: Invocation, ref: string, { tier: tiers }: TierFlags): Promise<void> {
  const { output } = invocation
  const { disk, l2 } = readCacheSettings(invocation.flags)
  requireTiers(tiers, { disk: disk !== undefined, l2: l2 !== undefined })
  await using caches = await openCaches(invocation)
  await using store = await connect(invocation, { cache: caches?.cache })
  caches?.announce(store)
  const result = await warmWithProgress(invocation, store, ref, tiers)
  const { primed, primeFailures } = result
  if (primed === 0) {
    throw new ThawError('UNAVAILABLE', `nothing of snapshot ${result.id} was kept: \`thaw cache ls\` shows why`, { object: result.id })
  }
  if (primeFailures > 0) output.warn(`${formatCount(primeFailures, 'object')} of ${formatCount(primed + primeFailures)} were not kept`)
  output.done(result, () => [verdict(result)])
}

async function warmWithProgress(
  { output, signal }: Invocation,
  store: SnapshotStore,
  ref: string,
  tiers: readonly CacheTier[] | undefined,
): Promise<WarmResult> {
  using progress = new ProgressLine(output, viewOf)
  return await store.warm(ref, { tiers, signal, onProgress: progress.report })
}

function requireTiers(chosen: readonly CacheTier[] | undefined, set: Readonly<Record<CacheTier, boolean>>): void {
  if (!set.disk && !set.l2) throw new UsageError(NONE_SET)
  const missing = chosen?.find(tier => !set[tier])
  if (missing !== undefined)
    throw new UsageError(`no cache of tier ${missing} is set: ${missing === 'disk' ? '--cache-dir DIR' : '--l2 URL'}`)
}

function viewOf({ bytes, totalBytes, chunks, totalChunks, servedBytes }: WarmProgress): ProgressView {
  const text = `${formatCount(chunks)} of ${formatCount(totalChunks, 'chunk')}  ${formatTiers(servedBytes)}`
  return { doneBytes: bytes, totalBytes, text }
}

function verdict({ id, tiers, chunks, bytes, servedBytes, durationMs }: WarmResult): string {
  const where = tiers.map(tier => TIER_NAMES[tier]).join(' and ')
  const what = `${formatCount(chunks, 'chunk')}, ${formatBytes(bytes)}`
  return `warm in ${where}: ${id} (${what}, ${formatTiers(servedBytes)}) in ${formatDuration(durationMs)}`
}

function formatEntries(count: number): string {
  return count === 1 ? '1 entry' : `${formatCount(count)} entries`
}
