/** thaw as a process that serves guests: the library, with its engine and pagers on their threads, told what to serve over Node's own channel. */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Bench } from '../harness.ts'

export interface ServingInput {
  readonly smoke: boolean
  /** Where keys and overlays lie. */
  readonly dir: string
  readonly store: string
  readonly ref: string
  readonly memoryBytes: number
  readonly spinMicroseconds: number | undefined
  /** Read everything first, so that all of it is in memory. */
  readonly warm: boolean
}

export type Ask = { readonly call: number } & (
  | { readonly kind: 'mount'; readonly path: string; readonly writable: boolean; readonly readAheadBytes: number }
  | { readonly kind: 'nbd' | 'uffd' | 'push'; readonly path: string }
  | { readonly kind: 'end' | 'stopPush' }
)

export interface Answer {
  readonly call: number
  readonly error?: string
}

export interface Held {
  readonly residentBytes: number
  readonly descriptors: number
}

type Wish = Ask extends infer A ? (A extends Ask ? Omit<A, 'call'> : never) : never

/** <sysconf(_SC_CLK_TCK)>: ticks of /proc/PID/stat a second, on every Linux. */
const TICKS_A_SECOND = 100

export class Serving implements AsyncDisposable {
  readonly #child: ChildProcess
  readonly #calls = new Map<number, PromiseWithResolvers<void>>()
  #lastCall = 0

  private constructor(child: ChildProcess) {
    this.#child = child
    child.on('message', ({ call, error }: Answer) => {
      if (error === undefined) this.#calls.get(call)?.resolve()
      else this.#calls.get(call)?.reject(new Error(error))
    })
    child.once('exit', code => {
      for (const { reject } of this.#calls.values()) reject(new Error(`the serving process ended with ${code}`))
    })
  }

  static async start({ smoke, signal }: Bench, input: Omit<ServingInput, 'smoke'>): Promise<Serving> {
    const argument = JSON.stringify({ smoke, ...input } satisfies ServingInput)
    const serving = new Serving(fork(join(import.meta.dirname, 'serving-child.ts'), [argument], { signal }))
    await serving.#answerTo(0)
    return serving
  }

  async ask(wish: Wish): Promise<void> {
    const call = ++this.#lastCall
    const answered = this.#answerTo(call)
    this.#child.send({ call, ...wish })
    await answered
  }

  async #answerTo(call: number): Promise<void> {
    const answer = Promise.withResolvers<void>()
    this.#calls.set(call, answer)
    await answer.promise
    this.#calls.delete(call)
  }

  /** Seconds of processors that it has used. */
  async cpuSeconds(): Promise<number> {
    const stat = await readFile(`/proc/${this.#child.pid}/stat`, 'utf8')
    // Behind the name, which may hold anything: state is field 3, user and system time are 14 and 15 (proc(5)).
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return (Number(fields[11]) + Number(fields[12])) / TICKS_A_SECOND
  }

  /** What it holds at this moment. */
  async holds(): Promise<Held> {
    const [status, fds] = await Promise.all([readFile(`/proc/${this.#child.pid}/status`, 'utf8'), readdir(`/proc/${this.#child.pid}/fd`)])
    return { residentBytes: 1024 * Number(/^VmRSS:\s*(\d+)/m.exec(status)?.[1]), descriptors: fds.length }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null) return
    const exited = once(this.#child, 'exit')
    await this.ask({ kind: 'end' }).catch(() => undefined)
    this.#child.disconnect()
    await exited
  }
}
