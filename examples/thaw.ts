/**
 * `thaw` as the examples run it: the program of this checkout, each command printed as one would type it.
 *
 * Two kinds of command: those that end and print an answer (`run`), and those that stay and serve one restore until they are told to end
 * (`serve`: `thaw mount`, `thaw serve`, `thaw restore`).
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { within } from '../bench/guest/within.ts'
import { ThawError } from '../src/index.ts'

/** What starts the program, before its arguments. */
export const THAW: readonly string[] = [process.execPath, join(import.meta.dirname, '../src/cli.ts')]

const COMMAND_TIMEOUT_MS = 300_000
const READY_TIMEOUT_MS = 30_000
/** After SIGTERM; then it is killed, and that is an error. */
const END_TIMEOUT_MS = 20_000
const STDERR_CHARACTERS = 4000

const [NODE = '', ...CLI] = THAW

/** Where commands run, and so which config, store and keyring they use. */
export interface Place {
  readonly dir: string
  readonly environment: NodeJS.ProcessEnv
}

/** A folder for which no settings from outside count: what runs there must not write to the user's own store. */
export function placeOfItsOwn(dir: string): Place {
  return { dir, environment: Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('THAW_'))) }
}

/** The user's folder and settings. */
export const HERE: Place = { dir: process.cwd(), environment: process.env }

/** Runs a command to its end and returns what it printed. Throws UNAVAILABLE with its last words if it fails. */
export async function run(place: Place, args: readonly string[], signal?: AbortSignal): Promise<string> {
  announce(args)
  try {
    const { stdout } = await promisify(execFile)(NODE, [...CLI, ...args], {
      cwd: place.dir,
      env: place.environment,
      signal,
      timeout: COMMAND_TIMEOUT_MS,
    })
    return stdout.trim()
  } catch (cause) {
    signal?.throwIfAborted()
    const said = cause instanceof Error && 'stderr' in cause ? String(cause.stderr).trim() : String(cause)
    throw new ThawError('UNAVAILABLE', `thaw ${args[0]} failed: ${said}`, { cause })
  }
}

/** A command that serves one restore. Closing it ends the restore. */
export class Serving implements AsyncDisposable {
  /** The restore's id, for `thaw commit` and `thaw stats`. */
  readonly restore: string
  readonly #child: ChildProcess
  readonly #name: string
  #ending: Promise<void> | undefined

  private constructor(child: ChildProcess, name: string, restore: string) {
    this.#child = child
    this.#name = name
    this.restore = restore
  }

  /** Starts it and waits for `ready RESTORE PATH` on its standard output. Throws UNAVAILABLE with its words, TIMEOUT. */
  static async start(place: Place, args: readonly string[], signal?: AbortSignal): Promise<Serving> {
    announce(args)
    const name = `thaw ${args[0]}`
    const child = spawn(NODE, [...CLI, ...args], { cwd: place.dir, env: place.environment, stdio: ['ignore', 'pipe', 'pipe'] })
    try {
      const restore = await within(`${name}: getting ready`, READY_TIMEOUT_MS, signal, signal => readyLine(child, name, signal))
      return new Serving(child, name, restore)
    } catch (error) {
      child.kill('SIGKILL')
      throw error
    }
  }

  /** Ends it with SIGTERM and waits. Throws UNAVAILABLE if it does not end cleanly; a second call gives the same. */
  async close(): Promise<void> {
    this.#ending ??= this.#end()
    await this.#ending
  }

  /** Resolves when it has ended by itself, as it does when its VMM has gone, or by `close`. Rejects when `signal` aborts. */
  async ended(signal: AbortSignal): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) await once(this.#child, 'exit', { signal })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #end(): Promise<void> {
    const child = this.#child
    if (child.exitCode === null && child.signalCode === null) {
      const exited = once(child, 'exit')
      child.kill('SIGTERM')
      const late = new AbortController()
      await Promise.race([exited, sleep(END_TIMEOUT_MS, undefined, { signal: late.signal }).then(() => child.kill('SIGKILL'))])
      late.abort()
      await exited
    }
    if (child.exitCode !== 0) throw new ThawError('UNAVAILABLE', `${this.#name} ended with ${child.exitCode ?? child.signalCode}`)
  }
}

/** The restore's id. What the command says until then is part of the error if it fails; what it says afterwards is passed on. */
async function readyLine(child: ChildProcess, name: string, signal: AbortSignal): Promise<string> {
  const ready = Promise.withResolvers<string>()
  let said = ''
  let isReady = false
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    if (isReady) process.stderr.write(text)
    else said = (said + text).slice(-STDERR_CHARACTERS)
  })
  createInterface({ input: child.stdout! }).on('line', line => {
    const [, restore] = /^ready (\S+)/.exec(line) ?? []
    if (restore === undefined) return
    isReady = true
    ready.resolve(restore)
  })
  child.once('error', cause => ready.reject(new ThawError('UNAVAILABLE', `${name} cannot be started`, { cause })))
  child.once('close', code => ready.reject(new ThawError('UNAVAILABLE', `${name} ended with ${code} before it was ready: ${said.trim()}`)))
  signal.addEventListener('abort', () => ready.reject(signal.reason), { once: true })
  return await ready.promise
}

function announce(args: readonly string[]): void {
  console.log(`  $ thaw ${args.map(shellWord).join(' ')}`)
}

/** `text` as one word for a shell, in quotes where it needs them. */
export function shellWord(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`
}
