/** A benchmark's report as Markdown: a table of times per section, a table of goals, and notes. */
import { formatBytes } from '../src/cli/format.ts'
import type { Goal, Report, Section, Timing } from './harness.ts'

/** The report, without a newline at its end. */
export function renderReport(report: Report): string {
  const { bench, smoke, machine, at, sections } = report
  const head = [`# ${bench}${smoke ? ' (smoke: sizes that prove nothing about speed)' : ''}`, '', `${machine}; ${at}`]
  return [...head, ...sections.flatMap(section => renderSection(section, smoke))].join('\n')
}

function renderSection({ name, title, timings, goals, notes }: Section, smoke: boolean): string[] {
  return [
    '',
    `## ${name}: ${title}`,
    ...(timings.length > 0 ? ['', ...renderTimings(timings)] : []),
    ...(goals.length > 0 ? ['', ...renderGoals(goals, smoke)] : []),
    ...(notes.length > 0 ? ['', ...notes.map(note => `- ${note}`)] : []),
  ]
}

/** The first row is what the others are compared with. */
function renderTimings(timings: readonly Timing[]): string[] {
  const base = timings[0]!.medianSeconds
  return table(
    ['', 'median', 'lowest – highest', 'peak memory', 'time / first'],
    timings.map(({ name, medianSeconds, seconds, peakBytes }) => [
      name,
      formatSeconds(medianSeconds),
      `${formatSeconds(Math.min(...seconds))} – ${formatSeconds(Math.max(...seconds))}`,
      peakBytes === undefined ? '–' : formatBytes(peakBytes),
      (medianSeconds / base).toFixed(2),
    ]),
  )
}

function renderGoals(goals: readonly Goal[], smoke: boolean): string[] {
  return table(
    ['goal', 'measured', 'target', ''],
    goals.map(goal => [
      goal.what,
      formatFigure(goal.value),
      `${goal.bound === 'at least' ? '≥' : '≤'} ${formatFigure(goal.target)}`,
      smoke ? 'not judged' : verdict(goal),
    ]),
  )
}

function verdict({ value, bound, target }: Goal): string {
  if (Number.isNaN(value)) return 'not measured'
  return (bound === 'at least' ? value >= target : value <= target) ? 'met' : 'NOT MET'
}

/** Markdown that also reads well as text: the first column to the left, figures to the right. */
function table(titles: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const widths = titles.map((title, column) => Math.max(3, title.length, ...rows.map(row => row[column]!.length)))
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell, column) => (column === 0 ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!))).join(' | ')} |`
  const rule = widths.map((width, column) => (column === 0 ? '-'.repeat(width + 2) : `${'-'.repeat(width + 1)}:`))
  return [line(titles), `|${rule.join('|')}|`, ...rows.map(line)]
}

function formatSeconds(seconds: number): string {
  if (seconds < 0.001) return `${(seconds * 1e6).toFixed(1)} µs`
  return seconds < 0.1 ? `${(seconds * 1000).toFixed(1)} ms` : `${seconds.toFixed(2)} s`
}

/** Three digits that count. */
function formatFigure(value: number): string {
  return Number.isNaN(value) ? '–' : String(Number(value.toPrecision(3)))
}
