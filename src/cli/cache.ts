/** `thaw cache ls|resize|clear|warm`: what lies in the caches that are set, and how it comes and goes. */
import assert from 'node:assert/strict'
import {
  type CacheDescription,
  type CacheOptions,
  type CacheTier,
  createCache,
  isThawError,
  resizeDiskCache,
  type SnapshotStore,
  ThawError,
  type WarmProgress,
  type WarmResult,
} from '../index.ts'
import { readCacheSettings } from './cache-settings.ts'
import { connect } from './connect.ts'
import { UsageError } from './exit.ts'
import { type Column, formatBytes, formatCount, formatDuration, formatTable, formatTiers, TIER_NAMES } from './format.ts'
import type { Invocation } from './invocation.ts'
import { ProgressLine, type ProgressView } from './progress.ts'
import { openCaches } from './read-through.ts'
import { parseSize, SIZE_FORMS } from './size.ts'

export interface TierFlags {
  readonly tier?: readonly CacheTier[]
}

const UNKNOWN = '?'
const NO_READS = { memoryBytes: 0, thread: 'main' } as const
const NO_DISK = 'no disk cache is set: name its folder with --cache-dir DIR (THAW_CACHE_DIR, or cacheDir in the config)'
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
  if (disk !== undefined) tiers.push(await describe({ tier: 'disk', name: disk.path }, { disk: { ...disk, observe: true } }))
  if (l2 !== undefined) tiers.push(await describe({ tier: 'l2', name: 'L2' }, { l2 }))
  output.answer({ tiers }, () => (tiers.length === 0 ? [] : formatTable(COLUMNS, tiers.map(rowOf))))
  if (tiers.length === 0) output.note(NONE_SET)
}

/** Each tier is opened alone, so that one that cannot be opened does not hide the other. */
async function describe(
  known: Pick<CacheDescription, 'tier' | 'name'>,
  tier: Pick<CacheOptions, 'disk' | 'l2'>,
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

function figure(value: number | undefined, format: (value: number) => string): string {
  return value === undefined ? UNKNOWN : format(value)
}

function rowOf({ tier, name, state, remark, entries, bytes, bytesMax }: CacheDescription): string[] {
  const figures = [figure(entries, formatCount), figure(bytes, formatBytes), figure(bytesMax, formatBytes)]
  return [TIER_NAMES[tier], state, ...figures, name, remark ?? '']
}

/** The one way to lower the bound of a folder: no flag of another command deletes what the folder holds. */
export async function resizeCache({ flags, output }: Invocation, size: string): Promise<void> {
  const { disk } = readCacheSettings(flags)
  if (disk === undefined) throw new UsageError(NO_DISK)
  const sizeBytes = parseSize(size)
  if (!sizeBytes) throw new UsageError(`${JSON.stringify(size)} is not ${SIZE_FORMS}`)
  const resized = await resizeDiskCache({ path: disk.path, sizeBytes })
  output.done({ ...resized }, () => [`${resized.name}: may hold ${formatBytes(sizeBytes)}, holds ${figure(resized.bytes, formatBytes)}`])
}

export async function clearCaches({ flags, output }: Invocation, { tier: chosen }: TierFlags): Promise<void> {
  const { disk, l2 } = readCacheSettings(flags)
  requireTiers(chosen, { disk: disk !== undefined, l2: l2 !== undefined })
  await using cache = await createCache({ ...NO_READS, disk: disk && { ...disk, observe: true }, l2 })
  const cleared = await cache.clear(chosen)
  output.done({ cleared }, () =>
    cleared.map(({ tier, name, entries }) => `${TIER_NAMES[tier]}: removed ${formatEntries(entries)} from ${name}`),
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
  for (const { tier, bytesMax = Number.POSITIVE_INFINITY } of (await caches?.cache.describe()) ?? []) {
    if (bytesMax >= result.bytes || !result.tiers.includes(tier)) continue
    const sizes = `${formatBytes(bytesMax)}, the snapshot has ${formatBytes(result.bytes)}`
    output.warn(`${TIER_NAMES[tier]} may hold ${sizes}: a part of it is not there`)
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
