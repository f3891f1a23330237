/**
 * `thaw stats`: the running commands that read through caches or were given a state folder, and what each read from which tier.
 *
 * Sockets that refuse are of processes that were killed, and are removed. A process that does not answer in time is shown as that.
 */
import { readdir, unlink } from 'node:fs/promises'
import { get } from 'node:http'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { type Distribution, quantileOf, type ReadFigures, type TierFigures } from '../index.ts'
import { readCacheSettings } from './cache-settings.ts'
import { type Column, formatAge, formatBytes, formatCount, formatLatency, formatShare, formatTable, oneLine, TIER_NAMES } from './format.ts'
import type { Invocation } from './invocation.ts'
import { stateFolder } from './state-folder.ts'

/** What a command answers on its socket. */
interface Answer {
  readonly pid: number
  readonly command: string
  /** RFC 3339. */
  readonly startedAt: string
  readonly store: string
  readonly figures: ReadFigures
}

interface Found {
  readonly pid: number
  readonly socket: string
  /** Undefined: none in time. */
  readonly answer: Answer | undefined
}

const ANSWER_WITHIN_MS = 1000
const SOCKET = /^(\d+)-[0-9a-f]+\.sock$/
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

async function findRunning(folder: string, signal: AbortSignal): Promise<Found[]> {
  const names = await readdir(folder).catch(() => [])
  const sockets = names.filter(name => SOCKET.test(name))
  const found = await Promise.all(sockets.map(name => ask(join(folder, name), Number.parseInt(name, 10), signal)))
  signal.throwIfAborted()
  return found.filter(process => process !== undefined).sort((a, b) => a.pid - b.pid)
}

/** Undefined if the process is gone. */
async function ask(socket: string, pid: number, signal: AbortSignal): Promise<Found | undefined> {
  try {
    return { pid, socket, answer: parse(await request(socket, AbortSignal.any([signal, AbortSignal.timeout(ANSWER_WITHIN_MS)]))) }
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined
    if (code === 'ENOENT') return undefined
    if (code !== 'ECONNREFUSED') return { pid, socket, answer: undefined }
    // Not ours to remove, or removed by now: then it is somebody else's to care.
    await unlink(socket).catch(() => undefined)
    return undefined
  }
}

async function request(socketPath: string, signal: AbortSignal): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>()
  get({ socketPath, path: '/stats', signal, agent: false }, response => {
    if (response.statusCode === 200) text(response).then(resolve, reject)
    else reject(new Error(`answered with ${response.statusCode}`))
  }).on('error', reject)
  return await promise
}

/** Another version of thaw may say something else: then it is as if it said nothing. */
function parse(body: string): Answer | undefined {
  const answer: Answer & { readonly schema: number } = JSON.parse(body)
  return answer.schema === 1 ? answer : undefined
}

function documentOf({ pid, socket, answer }: Found): object {
  if (answer === undefined) return { pid, socket, answered: false }
  const { command, startedAt, store, figures } = answer
  const tiers = TIERS.map(tier => [tier, withQuantiles(figures[tier])])
  return { pid, socket, answered: true, command, startedAt, store, figures: Object.fromEntries(tiers) }
}

/** What has a latency, with the quantiles people ask for; null of nothing. */
function withQuantiles<T extends TierFigures>(figures: T | undefined): object | undefined {
  if (!figures) return undefined
  const { latency } = figures
  const quantile = (q: number): number | null => (latency.count === 0 ? null : quantileOf(latency, q))
  return { ...figures, latency: { ...latency, p50Ms: quantile(0.5), p99Ms: quantile(0.99) } }
}

function linesOf({ pid, answer }: Found, index: number): string[] {
  const gap = index === 0 ? [] : ['']
  if (answer === undefined) return [...gap, `process ${pid} does not answer`]
  const { command, startedAt, store, figures } = answer
  const rows = TIERS.flatMap(tier => (figures[tier] ? [rowOf(tier, figures[tier])] : []))
  const started = formatAge(new Date(startedAt))
  return [...gap, oneLine(`process ${pid}: thaw ${command}, started ${started}, ${store}`), ...formatTable(COLUMNS, rows)]
}

function rowOf(tier: (typeof TIERS)[number], { hits, misses, bytes, latency, errors, corrupt, healed }: TierFigures): string[] {
  const quantiles = [formatQuantile(latency, 0.5), formatQuantile(latency, 0.99)]
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
