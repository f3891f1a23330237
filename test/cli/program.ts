/** Runs the program as its users do: a process, from what is published. */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { inject } from 'vitest'

/** Its path (test/built.ts). */
export const PROGRAM: string = inject('program')

export interface Ended {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/** A folder of its own for a test file, in which the program runs. */
export class Workplace implements AsyncDisposable {
  readonly folder: string

  private constructor(folder: string) {
    this.folder = folder
  }

  static async create(): Promise<Workplace> {
    return new Workplace(await mkdtemp(join(tmpdir(), 'thaw-cli-')))
  }

  path(name: string): string {
    return join(this.folder, name)
  }

  /** Runs to the end with an empty standard input. */
  async run(...args: string[]): Promise<Ended> {
    const child = this.start(args)
    child.stdin.end()
    return await ended(child)
  }

  /** Runs, and throws unless it exits with 0. Returns standard output without its last newline. */
  async mustRun(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.run(...args)
    if (code !== 0) throw new Error(`thaw ${args.join(' ')} exited with ${code}: ${stderr}`)
    return stdout.trimEnd()
  }

  /** What it answers to `--json`. */
  async document(...args: string[]): Promise<Record<string, unknown>> {
    return JSON.parse(await this.mustRun(...args, '--json'))
  }

  /** Without the settings of whoever runs the tests, and with `environment` on top. */
  start(args: readonly string[], environment: Readonly<Record<string, string>> = {}): ChildProcessWithoutNullStreams {
    const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith('THAW_') && name !== 'FORCE_COLOR')
    const env = { ...Object.fromEntries(inherited), XDG_RUNTIME_DIR: this.folder, ...environment }
    const child = spawn(process.execPath, [PROGRAM, ...args], { cwd: this.folder, env })
    // A program that ends before it has read all it was given breaks the pipe: that is what some tests are about.
    child.stdin.on('error', () => undefined)
    return child
  }

  /** An image that does not compress, with zero pages in every other range. */
  async writeImage(name: string, rangesOfData: number): Promise<Buffer> {
    const bytes = Buffer.alloc(rangesOfData * 2 ** 20)
    for (let range = 0; range < rangesOfData; range++) randomBytes(2 ** 19).copy(bytes, range * 2 ** 20)
    await writeFile(this.path(name), bytes)
    return bytes
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.folder, { recursive: true, force: true })
  }
}

export async function ended(child: ChildProcessWithoutNullStreams): Promise<Ended> {
  const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')])
  return { code: child.exitCode, stdout, stderr }
}

/** The one line that an error is. */
export function errorLine({ stderr }: Ended): string {
  const [line, ...more] = stderr.split('\n')
  if (line === undefined || more.length !== 1 || more[0] !== '') throw new Error(`not one line: ${JSON.stringify(stderr)}`)
  return line
}
