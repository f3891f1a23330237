/**
 * What every benchmark here shares: flags, turns, medians, goals, and the report as a table or as JSON.
 *
 * Contestants run in turns (A B C, A B C, …), so that what the machine does meanwhile falls on all of them, and the median of each counts. Ratios are what
 * is reported and judged: times differ from machine to machine. A goal that is missed is printed, not an exit code: a busy machine is no failure.
 */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { availableParallelism, cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { runMain } from './interrupt.ts'
import { renderReport } from './report.ts'

export interface BenchOptions {
  /** Tiny inputs, one run, no verdicts: shows that the benchmark still works. */
  readonly smoke: boolean
  readonly runs: number
  /** Sections whose name begins so; undefined: all. */
  readonly only: string | undefined
}

/** What a benchmark's body gets. */
export interface Bench extends BenchOptions {
  /** A temporary folder, removed afterwards; `TMPDIR` says on which disk. */
  readonly dir: string
  /** Aborts on Ctrl-C. */
  readonly signal: AbortSignal
  /** Whether `--only` lets this section run. */
  wants(section: string): boolean
  /** A line on standard error: what is being done. */
  note(line: string): void
}

/** What one run took. */
export interface Run {
  readonly seconds: number
  /** Resident memory at its highest, where it can be told apart. */
  readonly peakBytes?: number
}

export interface Contestant {
  readonly name: string
  /** Prepares, does the measured work, checks it and cleans up; only the work is in the result. */
  run(): Promise<Run>
}

export interface Timing {
  readonly name: string
  readonly medianSeconds: number
  /** In the order of the runs. */
  readonly seconds: readonly number[]
  /** Of all runs. */
  readonly peakBytes: number | undefined
}

/** A figure and what it must be. */
export interface Goal {
  readonly what: string
  readonly value: number
  readonly bound: 'at least' | 'at most'
  readonly target: number
}

export interface Section {
  readonly name: string
  readonly title: string
  readonly timings: readonly Timing[]
  readonly goals: readonly Goal[]
  /** Figures and remarks that are no goals. */
  readonly notes: readonly string[]
}

export interface Report {
  readonly bench: string
  readonly smoke: boolean
  readonly machine: string
  /** RFC 3339. */
  readonly at: string
  readonly sections: readonly Section[]
}

const RUNS = 5
const RESULTS = join(import.meta.dirname, 'results')

/** The whole program of a benchmark: prints the report of what `body` measured, and with `--save` keeps it in `bench/results`. */
export async function runBench(bench: string, body: (bench: Bench) => Promise<readonly Section[]>): Promise<void> {
  await runMain('bench', async signal => {
    const { json, save, ...options } = parseFlags()
    const { smoke, only } = options
    const dir = await mkdtemp(join(tmpdir(), `thaw-bench-${bench}-`))
    try {
      const wants = (section: string): boolean => only === undefined || section.startsWith(only)
      const note = (line: string): void => console.error(`${bench}: ${line}`)
      const sections = await body({ ...options, dir, signal, wants, note })
      const report = { bench, smoke, machine: describeMachine(), at: new Date().toISOString(), sections }
      console.log(json ? JSON.stringify({ schema: 1, ...report }) : renderReport(report))
      if (save) await keep(report)
    } finally {
      await rm(dir, { recursive: true, force: true })
    }
  })
}

function parseFlags(): BenchOptions & { readonly json: boolean; readonly save: boolean } {
  const { values } = parseArgs({
    options: {
      smoke: { type: 'boolean', default: false },
      runs: { type: 'string' },
      only: { type: 'string' },
      json: { type: 'boolean', default: false },
      save: { type: 'boolean', default: false },
    },
  })
  const { smoke, only, json, save } = values
  const runs = values.runs === undefined ? (smoke ? 1 : RUNS) : Number(values.runs)
  if (!Number.isInteger(runs) || runs < 1) throw new RangeError(`--runs ${values.runs} is not a number of runs`)
  return { smoke, runs, only, json, save }
}

function describeMachine(): string {
  return `Node ${process.version}, ${availableParallelism()} cores, ${cpus()[0]?.model.trim() || 'unknown processor'}`
}

async function keep(report: Report): Promise<void> {
  await mkdir(RESULTS, { recursive: true })
  const path = join(RESULTS, `${report.bench}-${report.at.replaceAll(':', '-')}`)
  await writeFile(`${path}.json`, `${JSON.stringify(report, undefined, 2)}\n`)
  await writeFile(`${path}.md`, `${renderReport(report)}\n`)
}

/** Every contestant `runs` times, in turns. */
export async function inTurns(contestants: readonly Contestant[], runs: number): Promise<Timing[]> {
  const results = contestants.map(({ name }) => ({ name, runs: [] as Run[] }))
  for (let turn = 0; turn < runs; turn++) {
    for (const [index, contestant] of contestants.entries()) results[index]!.runs.push(await contestant.run())
  }
  return results.map(({ name, runs }) => {
    const seconds = runs.map(run => run.seconds)
    const peaks = runs.flatMap(run => run.peakBytes ?? [])
    return { name, medianSeconds: median(seconds), seconds, peakBytes: peaks.length > 0 ? Math.max(...peaks) : undefined }
  })
}

/** How many seconds `work` takes. */
export async function timed(work: () => Promise<unknown> | unknown): Promise<Run> {
  const started = performance.now()
  await work()
  return { seconds: (performance.now() - started) / 1000 }
}

/** Of an even number of values, the mean of the two in the middle. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/** How many times as long `slow` took as `fast`: NaN if one of them did not run. */
export function speedup(timings: readonly Timing[], fast: string, slow: string): number {
  const of = (name: string): number => timings.find(timing => timing.name === name)?.medianSeconds ?? Number.NaN
  return of(slow) / of(fast)
}
