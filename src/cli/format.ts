/**
 * Figures as people read them. Machines get the plain numbers (`--json`), so these may round.
 */
import type { Tier } from '../index.ts'

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'] as const
const UNIT_STEP = 1024
const SHORT_ID_DIGITS = 12
const PAGE_BYTES = 4096

const SECOND_MS = 1000
const MINUTE_MS = 60 * SECOND_MS
const HOUR_MS = 60 * MINUTE_MS
const DAY_MS = 24 * HOUR_MS

/** Three digits that count: `0 B`, `2.35 MiB`, `14.5 MiB`, `512 MiB`. */
export function formatBytes(bytes: number): string {
  let value = bytes
  let unit = 0
  // Compared as it will be printed, or 1023.9 KiB would read 1024 KiB.
  while (Math.round(value) >= UNIT_STEP && unit < UNITS.length - 1) {
    value /= UNIT_STEP
    unit++
  }
  return `${significant(value)} ${UNITS[unit]}`
}

/** Bytes with the pages they are: `14.5 MiB (3,712 pages)`. */
export function formatBytesAndPages(bytes: number): string {
  return `${formatBytes(bytes)} (${formatCount(Math.ceil(bytes / PAGE_BYTES), 'page')})`
}

/** `1,234`, or with a noun `1,234 chunks`, `1 chunk`. */
export function formatCount(count: number, noun?: string): string {
  const digits = String(count).replace(/\B(?=(\d{3})+$)/g, ',')
  if (noun === undefined) return digits
  return `${digits} ${noun}${count === 1 ? '' : 's'}`
}

/** `3.21 : 1`; a dash where there is nothing to compare. */
export function formatRatio(plainBytes: number, storedBytes: number): string {
  return storedBytes === 0 ? '–' : `${significant(plainBytes / storedBytes)} : 1`
}

/** A share in whole percent; 100 and 0 only where it is all or nothing. */
export function formatShare(part: number, whole: number): string {
  if (whole === 0 || part === 0) return '0 %'
  if (part === whole) return '100 %'
  return `${Math.min(99, Math.max(1, Math.round((100 * part) / whole)))} %`
}

/** `340 ms`, `2.3 s`, `1 min 20 s`, `2 h 5 min`. */
export function formatDuration(ms: number): string {
  if (ms < SECOND_MS) return `${Math.round(ms)} ms`
  if (ms < 10 * SECOND_MS) return `${(ms / SECOND_MS).toFixed(1)} s`
  if (ms < MINUTE_MS) return `${Math.round(ms / SECOND_MS)} s`
  if (ms < HOUR_MS) return `${Math.floor(ms / MINUTE_MS)} min ${Math.floor((ms % MINUTE_MS) / SECOND_MS)} s`
  return `${Math.floor(ms / HOUR_MS)} h ${Math.floor((ms % HOUR_MS) / MINUTE_MS)} min`
}

/** Times of single reads: `87 µs`, `1.4 ms`, `250 ms`, then as `formatDuration`. */
export function formatLatency(ms: number): string {
  if (ms >= SECOND_MS) return formatDuration(ms)
  return ms < 1 ? `${significant(ms * 1000)} µs` : `${significant(ms)} ms`
}

export const TIER_NAMES: Readonly<Record<Tier, string>> = { memory: 'memory', disk: 'disk', l2: 'L2', origin: 'origin' }

/** From where bytes came: `from disk 12.3 MiB, L2 1 MiB`; tiers that served none are left out. */
export function formatTiers(servedBytes: Readonly<Partial<Record<Tier, number>>>): string {
  const tiers = (['memory', 'disk', 'l2', 'origin'] as const).filter(tier => (servedBytes[tier] ?? 0) > 0)
  if (tiers.length === 0) return 'nothing fetched'
  return `from ${tiers.map(tier => `${TIER_NAMES[tier]} ${formatBytes(servedBytes[tier] ?? 0)}`).join(', ')}`
}

/** How long ago: `just now`, `5 min ago`, `3 days ago`. A clock that is behind the publisher's says `just now` too. */
export function formatAge(at: Date, nowMs: number = Date.now()): string {
  const ms = nowMs - at.getTime()
  if (ms < MINUTE_MS) return 'just now'
  if (ms < HOUR_MS) return `${Math.floor(ms / MINUTE_MS)} min ago`
  if (ms < 2 * DAY_MS) return `${Math.floor(ms / HOUR_MS)} h ago`
  return `${formatCount(Math.floor(ms / DAY_MS), 'day')} ago`
}

/** Enough digits to tell snapshots apart and to be used as a REF. */
export function shortId(id: string): string {
  return id.slice(0, SHORT_ID_DIGITS)
}

export interface Column {
  readonly title: string
  /** Numbers stand on the right. Default: left. */
  readonly right?: boolean
}

/** Lines of a table with its titles, columns two spaces apart, nothing behind the last. Cells are of one column a character; what would leave its line is escaped. */
export function formatTable(columns: readonly Column[], rows: readonly (readonly string[])[]): string[] {
  const lines = [columns.map(({ title }) => title), ...rows.map(row => row.map(oneLine))]
  const widths = columns.map((_, index) => Math.max(...lines.map(line => line[index]!.length)))
  const padded = (cell: string, index: number): string =>
    columns[index]!.right ? cell.padStart(widths[index]!) : cell.padEnd(widths[index]!)
  return lines.map(line => line.map(padded).join('  ').trimEnd())
}

/** Lines of `name  value`, the values under each other. */
export function formatFields(fields: readonly (readonly [name: string, value: string])[]): string[] {
  const width = Math.max(...fields.map(([name]) => name.length))
  return fields.map(([name, value]) => `${name.padEnd(width)}  ${value}`)
}

/** Text that came from elsewhere, made safe for a terminal and for one line: control characters as JSON writes them. */
export function oneLine(text: string): string {
  return text.replaceAll(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, character => {
    const escaped = JSON.stringify(character).slice(1, -1)
    return escaped === character ? `\\u{${character.codePointAt(0)!.toString(16)}}` : escaped
  })
}

function significant(value: number): string {
  if (Number.isInteger(value) || value >= 99.95) return String(Math.round(value))
  return value.toFixed(value >= 9.995 ? 1 : 2)
}
