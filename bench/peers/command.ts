/**
 * Runs one whole command and says how long it took and how much memory it held at most.
 *
 * A small Python process starts it and waits for it: wait4(2) gives the highest resident size, which Node cannot ask for. Linux counts in what the
 * process was forked from until it called exec, so a figure below about 10 MiB, which is that Python, means no more than that; started from here, it would be all of
 * this process. Of a command that starts others, the figure is that of the largest single process; those compared here start none.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { text } from 'node:stream/consumers'
import { findProgram } from '../../scripts/find-program.ts'
import type { Run } from '../harness.ts'

export interface Command {
  readonly argv: readonly [string, ...string[]]
  readonly cwd?: string | undefined
  /** Beside PATH, HOME and the like; nothing else of this process's environment. */
  readonly env?: Readonly<Record<string, string>> | undefined
}

export interface Measured extends Run {
  readonly peakBytes: number
  readonly stdout: string
}

const TIMEOUT_MS = 15 * 60_000
const STDERR_CHARACTERS = 1000
const PASSED_ON = ['PATH', 'HOME', 'LANG', 'TMPDIR', 'XDG_CACHE_HOME'] as const

/** The clock starts before the fork and stops once the process is gone. */
const WAITER = `
import json, os, sys, time
os.set_inheritable(3, False)
started = time.perf_counter()
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(pid, 0)
seconds = time.perf_counter() - started
os.write(3, json.dumps({'seconds': seconds, 'peakKib': usage.ru_maxrss, 'code': os.waitstatus_to_exitcode(status)}).encode())
`

/** Runs a command to its end. Throws with the end of its standard error if it fails; kills it when `signal` aborts. */
export async function measure(command: Command, signal: AbortSignal): Promise<Measured> {
  signal.throwIfAborted()
  const { argv, cwd, env } = command
  // A process group of its own, so that the command can be killed with the Python that waits for it.
  const child = spawn(python(), ['-I', '-S', '-c', WAITER, ...argv], {
    cwd,
    env: { ...inherited(), ...env },
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
    detached: true,
  })
  const either = AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)])
  const kill = (): void => killGroup(child.pid)
  either.addEventListener('abort', kill)
  try {
    const [stdout, stderr, result] = await Promise.all([
      text(child.stdout!),
      text(child.stderr!),
      text(child.stdio[3] as typeof child.stdout & {}),
      once(child, 'close'),
    ])
    either.throwIfAborted()
    const { seconds, peakKib, code } = result === '' ? { seconds: 0, peakKib: 0, code: -1 } : JSON.parse(result)
    if (code !== 0) throw new Error(`${argv.join(' ')}: exit code ${code}: ${stderr.slice(-STDERR_CHARACTERS).trim()}`)
    return { seconds, peakBytes: peakKib * 1024, stdout }
  } finally {
    either.removeEventListener('abort', kill)
  }
}

function killGroup(pid: number | undefined): void {
  if (pid === undefined) return
  try {
    process.kill(-pid, 'SIGKILL')
  } catch (error) {
    // ESRCH: it ended by itself just now.
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error
  }
}

function inherited(): Record<string, string> {
  return Object.fromEntries(PASSED_ON.flatMap(name => (process.env[name] === undefined ? [] : [[name, process.env[name]]])))
}

/** Debian's own before one on PATH, which may be a script that looks for versions. */
function python(): string {
  const path = existsSync('/usr/bin/python3') ? '/usr/bin/python3' : findProgram('python3')
  if (path === undefined) throw new Error('no python3, which measures the commands: run `npm run setup`')
  return path
}
