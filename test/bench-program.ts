/** Programs of `bench`, started as people start them, at sizes that take seconds. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { expect } from 'vitest'
import type { Report } from '../bench/harness.ts'

export interface Ended {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Runs one whose temporary files lie in `dir`; `onOutput` is called for each piece it prints. */
export async function runBench(
  dir: string,
  program: string,
  args: readonly string[],
  onOutput: (kill: () => void) => void = () => {},
): Promise<Ended> {
  const path = join(import.meta.dirname, '../bench', `${program}.ts`)
  const child = spawn(process.execPath, [path, ...args], { env: { ...process.env, TMPDIR: dir }, stdio: ['ignore', 'pipe', 'pipe'] })
  child.stdout.on('data', () => onOutput(() => child.kill('SIGINT')))
  const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')])
  return { code: child.exitCode, stdout, stderr }
}

/** The report of a smoke run that succeeded. */
export async function smoke(dir: string, program: string, ...args: string[]): Promise<Report> {
  const { code, stdout, stderr } = await runBench(dir, program, ['--smoke', '--json', ...args])
  expect({ code, stderr: code === 0 ? '' : stderr }).toEqual({ code: 0, stderr: '' })
  return JSON.parse(stdout)
}

/** Names of sections, with the number of their goals that were measured. */
export function measured({ sections }: Report): Record<string, number> {
  return Object.fromEntries(sections.map(({ name, goals }) => [name, goals.filter(({ value }) => Number.isFinite(value)).length]))
}
