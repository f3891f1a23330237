/**
 * `--on-resume CMD`: run through a shell once a restore, when its first client is there: after the handshake of a VMM on a userfaultfd or NBD socket has been accepted, or
 * when a file of the mount is opened first. Nobody waits for it: the guest may run already. It is told which restore it is for, and given 64 fresh random bytes for the guest
 * (docs/RESUME.md). That it fails is said, and ends nothing; it is killed when the restore ends.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import type { Restore } from '../index.ts'
import type { Output } from './output.ts'

export class OnResume implements AsyncDisposable {
  readonly #command: string | undefined
  readonly #output: Output
  #child: ChildProcess | undefined
  /** The shell ended, and something that it started went on. */
  #leftSome = false

  constructor(command: string | undefined, output: Output) {
    this.#command = command
    this.#output = output
  }

  /** Starts it; nothing the second time. */
  run({ id, snapshot, random }: Restore): void {
    if (this.#command === undefined || this.#child !== undefined) return
    const environment = { THAW_RESTORE: id, THAW_SNAPSHOT: snapshot.id, THAW_RANDOM: Buffer.from(random).toString('hex') }
    // Standard output is for the command's own answer.
    this.#child = spawn('/bin/sh', ['-c', this.#command], {
      env: { ...process.env, ...environment },
      stdio: ['ignore', process.stderr, process.stderr],
      detached: true,
    })
    const { pid } = this.#child
    this.#child.once('error', error => this.#output.warn(`--on-resume could not be started: ${error.message}`))
    this.#child.once('exit', (code, signal) => {
      this.#leftSome = reach(-pid!, 0)
      this.#ended(id, code, signal)
    })
  }

  #ended(restore: string, exitCode: number | null, signal: string | null): void {
    if (this.#output.json) this.#output.item({ event: 'on-resume', restore, exitCode, signal })
    else if (exitCode !== 0) this.#output.warn(`--on-resume ended with ${exitCode ?? signal}`)
  }

  /** Kills what still runs, with what it started. */
  async [Symbol.asyncDispose](): Promise<void> {
    const child = this.#child
    if (child?.pid === undefined) return
    if (child.exitCode !== null || child.signalCode !== null) {
      // A process of that number would be somebody else's, and so its group: what was left has ended.
      if (this.#leftSome && !reach(child.pid, 0)) reach(-child.pid, 'SIGKILL')
      return
    }
    child.removeAllListeners('exit')
    const exited = once(child, 'exit')
    reach(-child.pid, 'SIGKILL')
    await exited
  }
}

/** Whether there was a process, or with a negative number somebody in that group, that could be sent the signal. */
function reach(id: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(id, signal)
  } catch {
    return false
  }
}
