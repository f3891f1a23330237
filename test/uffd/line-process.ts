/**
 * A program made from one C file, and a process that is told lines and answers each with one.
 *
 * A file is compiled once per content, into the folder where this project keeps built programs. Every wait has a deadline, and every error says how the process
 * stands and what it last wrote to standard error.
 */
import { type ChildProcessByStdio, execFile, spawn } from 'node:child_process'
import { createHash, randomUUID } from 'node:crypto'
import { mkdir, readFile, rename } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable, Writable } from 'node:stream'
import { promisify } from 'node:util'
import { cacheHome } from '../../scripts/cache-home.ts'
import { findProgram, isExecutable } from '../../scripts/find-program.ts'
import { Deadline } from '../../src/util/deadline.ts'

const COMPILER_FLAGS = ['-O2', '-Wall', '-Wextra', '-Werror', '-pthread']
const COMPILE_WITHIN_MS = 60_000
const STDERR_TAIL_CHARS = 2000

/** How a process ended: one of the two is null. */
export interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

/** Answers are given to those who wait in the order in which they began to. */
export class LineProcess implements AsyncDisposable {
  readonly exited: Promise<Ended>
  readonly #child: ChildProcessByStdio<Writable, Readable, Readable>
  readonly #name: string
  readonly #waiting: PromiseWithResolvers<string>[] = []
  #ended: Ended | undefined
  #stderr = ''

  constructor(file: string, args: readonly string[]) {
    this.#name = basename(file)
    this.#child = spawn(file, args, { stdio: 'pipe' })
    this.exited = new Promise(resolve => {
      this.#child.once('exit', (code, signal) => {
        this.#ended = { code, signal }
        resolve(this.#ended)
      })
    })
    this.#child.stderr.setEncoding('utf8').on('data', text => {
      this.#stderr = `${this.#stderr}${text}`.slice(-STDERR_TAIL_CHARS)
    })
    // It may end before it has read what it was told.
    this.#child.stdin.on('error', () => {})
    this.#child.once('error', error => this.#failWaiting(error))
    this.#child.once('close', () => this.#failWaiting(this.#error('has ended')))
    createInterface(this.#child.stdout).on('line', line => this.#waiting.shift()?.resolve(line))
  }

  get pid(): number {
    return this.#child.pid!
  }

  /** The tail of what it wrote to standard error. */
  get stderr(): string {
    return this.#stderr
  }

  /** The next line that nobody else waits for. */
  async line(what: string, timeoutMs: number): Promise<string> {
    const next = Promise.withResolvers<string>()
    // After a deadline nobody looks at it any more.
    next.promise.catch(() => {})
    this.#waiting.push(next)
    if (this.#child.stdout.closed) this.#failWaiting(this.#error('has ended'))
    return this.within(`${what}: no answer`, timeoutMs, next.promise)
  }

  tell(line: string): void {
    this.#child.stdin.write(`${line}\n`)
  }

  /** What `work` comes to, or an error that says `what`. */
  async within<T>(what: string, timeoutMs: number, work: Promise<T>): Promise<T> {
    using deadline = new Deadline(timeoutMs, () => this.#error(`${what} after ${timeoutMs} ms`))
    return await deadline.race(work)
  }

  /** Kills it, if it still runs. Idempotent. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.pid === undefined) return
    if (this.#ended === undefined) this.#child.kill('SIGKILL')
    await this.exited
  }

  #failWaiting(error: Error): void {
    for (const waiting of this.#waiting.splice(0)) waiting.reject(error)
  }

  #error(what: string): Error {
    const state = this.#ended === undefined ? 'runs' : `ended with ${this.#ended.signal ?? this.#ended.code}`
    return new Error(`${this.#name} (${state}): ${what}\n${this.#stderr}`)
  }
}

/** The program made from a C file. Older contents stay: they are small, and another checkout may be using them. */
export async function compileC(source: string): Promise<string> {
  const text = await readFile(source)
  const key = createHash('sha256').update(COMPILER_FLAGS.join(' ')).update(text).digest('hex').slice(0, 16)
  const program = join(cacheHome(), 'cc', `${basename(source, '.c')}-${key}`)
  if (isExecutable(program)) return program
  const compiler = findProgram('cc')
  if (compiler === undefined) throw new Error('no cc: run `npm run setup`')
  await mkdir(dirname(program), { recursive: true })
  const unfinished = `${program}.${randomUUID()}`
  await promisify(execFile)(compiler, [...COMPILER_FLAGS, '-o', unfinished, source], { timeout: COMPILE_WITHIN_MS })
  await rename(unfinished, program)
  return program
}
