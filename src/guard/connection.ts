/**
 * One guard process, as its owner holds it: started, asked one thing at a time, ended. Starting another when it is gone is the business of guard.ts.
 *
 * It does not keep the owner's event loop alive, but for the time of a request. A guard that does not answer in time is killed and so is gone: a stopped process
 * guards nobody.
 */
import type { ChildProcess } from 'node:child_process'
import { closeSync } from 'node:fs'
import type { Socket } from 'node:net'
import { fileURLToPath } from 'node:url'
import { type Clock, systemClock } from '../util/clock.ts'
import { DescriptorMessages } from '../util/descriptor-message.ts'
import type { Native } from '../util/native.ts'
import { startProgram } from '../util/start-program.ts'
import { systemError } from '../util/system-error.ts'
import { ANSWER_BYTES, ANSWER_FD, type GuardRequest, REQUEST_BYTES_MAX } from './protocol.ts'

/** Node takes 60 ms to start; a machine that is short of memory, long. */
const START_MS = 15_000
/** An answer takes 50 µs. */
const ANSWER_MS = 5_000

const AF_UNIX = 1
const SOCK_SEQPACKET = 5
const SOCK_CLOEXEC = 0o2000000

/** It has half a megabyte of objects, and runs nothing often enough to compile it. */
const NODE_OPTIONS = [
  '--max-old-space-size=16',
  '--max-semi-space-size=1',
  '--single-threaded',
  '--v8-pool-size=0',
  '--no-warnings',
] as const

/** The guard is gone, or was told to go. */
export class GuardGone extends Error {
  override readonly name = 'GuardGone'
}

interface Pending {
  /** Undefined: none is sent, its readiness is waited for. */
  readonly request: GuardRequest | undefined
  readonly fd: number | undefined
  readonly resolve: (errno: number) => void
  readonly reject: (error: unknown) => void
}

export class GuardConnection {
  readonly pid: number
  /** Resolves when the process has ended, for whatever reason. */
  readonly exited: Promise<void>
  readonly #child: ChildProcess
  readonly #answers: Socket
  readonly #messages: DescriptorMessages
  readonly #clock: Clock
  /** The first is under way. Bounded by who is watched. */
  readonly #queue: Pending[] = []
  #stopClock: (() => void) | undefined
  #received = Buffer.alloc(0)
  #isGone = false

  private constructor(native: Native, child: ChildProcess, socket: number, clock: Clock) {
    this.#child = child
    this.#clock = clock
    this.#messages = new DescriptorMessages(native, socket, { bytesMax: REQUEST_BYTES_MAX })
    this.#answers = child.stdio[ANSWER_FD] as Socket
    this.pid = child.pid!
    this.exited = exitOf(child)
    // Not before: closing the socket is what makes a guard kill.
    this.exited.then(() => {
      this.#lose()
      closeSync(socket)
    })
    this.#answers.on('data', (bytes: Buffer) => this.#hear(bytes)).on('error', () => undefined)
    child.unref()
    this.#answers.unref()
  }

  /** @throws GuardGone if it does not come up; an error of Node or the kernel if it cannot be started */
  static async start(native: Native, clock: Clock = systemClock): Promise<GuardConnection> {
    const [ownEnd, guardEnd] = socketPair(native)
    const child = await startGuardProcess(guardEnd)
      .catch(error => {
        closeSync(ownEnd)
        throw error
      })
      .finally(() => closeSync(guardEnd))
    const guard = new GuardConnection(native, child, ownEnd, clock)
    await guard.#ready()
    return guard
  }

  /** Sends at once if nothing is under way. `fd` stays the caller's, and open until this settles. @returns 0 or an errno. @throws GuardGone */
  ask(request: GuardRequest, fd?: number): Promise<number> {
    return new Promise((resolve, reject) => {
      if (this.#isGone) return reject(new GuardGone('the guard is gone'))
      this.#queue.push({ request, fd, resolve, reject })
      if (this.#queue.length === 1) this.#sendFirst()
    })
  }

  /** It lets go of all it watches and ends; nothing is killed. Resolves when it is gone. */
  async end(): Promise<void> {
    try {
      await this.ask({ kind: 'goodbye' })
    } catch {
      // Gone, or killed for its silence: either way it kills nobody.
    }
    this.#lose()
    this.#child.ref()
    await this.exited
  }

  #ready(): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#queue.push({ request: undefined, fd: undefined, resolve, reject })
      this.#await(START_MS)
    })
  }

  #sendFirst(): void {
    const first = this.#queue[0]
    if (first?.request === undefined) return
    const errno = this.#messages.send(Buffer.from(JSON.stringify(first.request)), first.fd)
    // If not, it is gone.
    if (errno === 0) this.#await(ANSWER_MS)
    else this.#lose()
  }

  #await(ms: number): void {
    const first = this.#queue[0]
    this.#answers.ref()
    // An answer that came while this thread was busy is read before the time counts as over.
    this.#stopClock = this.#clock.after(ms, () => setImmediate(() => this.#queue[0] === first && this.#lose()))
  }

  /** Kills the guard, if it is not gone: that does not make it kill. */
  #lose(): void {
    if (this.#isGone) return
    this.#isGone = true
    this.#child.kill('SIGKILL')
    this.#stopClock?.()
    this.#answers.unref()
    for (const { reject } of this.#queue.splice(0)) reject(new GuardGone('the guard is gone'))
  }

  #hear(bytes: Buffer): void {
    this.#received = Buffer.concat([this.#received, bytes])
    while (this.#received.length >= ANSWER_BYTES) {
      const errno = this.#received.readInt32LE(0)
      this.#received = this.#received.subarray(ANSWER_BYTES)
      this.#stopClock?.()
      this.#answers.unref()
      this.#queue.shift()?.resolve(errno)
      this.#sendFirst()
    }
  }
}

function socketPair(native: Native): readonly [ownEnd: number, guardEnd: number] {
  const ends = Buffer.alloc(8)
  if (native.socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) throw systemError(native, 'socketpair')
  return [ends.readInt32LE(0), ends.readInt32LE(4)]
}

/** In a session of its own, so that no signal to the owner's terminal or group takes it along; without the environment, which may hold secrets. */
function startGuardProcess(guardEnd: number): Promise<ChildProcess> {
  const { LD_LIBRARY_PATH } = process.env
  const file = new URL(import.meta.url.endsWith('.ts') ? './process.ts' : './guard-process.js', import.meta.url)
  return startProgram(process.execPath, [...NODE_OPTIONS, fileURLToPath(file)], {
    cwd: '/',
    detached: true,
    env: LD_LIBRARY_PATH === undefined ? {} : { LD_LIBRARY_PATH },
    stdio: ['ignore', 'ignore', 'ignore', guardEnd, 'pipe'],
  })
}

/** An error of a running one, such as that it may not be killed, is not its end. */
function exitOf(child: ChildProcess): Promise<void> {
  return new Promise(resolve => {
    child.once('exit', () => resolve()).on('error', () => undefined)
  })
}
