/**
 * One QEMU process with one guest in it, whose memory is a file: started, talked to, saved, resumed, killed.
 *
 * The memory file is mapped shared: what the guest writes is in the file at once, so saving a stopped machine means copying the file
 * and writing the rest of the machine, 0.3 MB, with the migration capability `x-ignore-shared`. Not here: snapshots of a guest while it
 * runs, several CPUs, networks.
 *
 * Each start gives the machine a generation (QEMU's `vmgenid`): a resumed guest sees another than the captured one, and knows by it that
 * it must renew its random numbers.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { ThawError } from '../../src/errors.ts'
import { LineSocket } from './line-socket.ts'
import { ANSWER_WORDS, type GuestRequest } from './programs.ts'
import { Qmp } from './qmp.ts'
import { within } from './within.ts'

export interface MachineOptions {
  readonly qemu: string
  readonly kernel: string
  readonly initrd: string
  /** The file that is the guest's memory: made if it is not there, and written to. */
  readonly memory: string
  readonly sizeMiB: number
  /** A UUID that the guest sees as its generation; a fresh random one by default. */
  readonly generation?: string | undefined
  /** A raw image as QEMU names it, a path or `nbd+unix:///?socket=PATH`: the guest's /dev/vda. It is written to. */
  readonly disk?: string | undefined
  /** True to start without a guest, for `resume`; otherwise it boots. */
  readonly incoming?: boolean
  /** A program and its arguments that start QEMU in their own place, such as `thaw exec --`. */
  readonly launcher?: readonly string[]
  readonly signal?: AbortSignal | undefined
}

const START_TIMEOUT_MS = 15_000
const COMMAND_TIMEOUT_MS = 30_000
const ANSWER_TIMEOUT_MS = 180_000
const POLL_MS = 2
/** What a guest printed last, for the error when it ends instead of answering. */
const TAIL_LINES = 8
const STDERR_CHARACTERS = 2000

export class Machine implements AsyncDisposable {
  readonly #child: ChildProcess
  readonly #sockets: string
  readonly #qmp: Qmp
  readonly #console: LineSocket
  readonly #signal: AbortSignal | undefined

  private constructor(child: ChildProcess, sockets: string, qmp: Qmp, serial: LineSocket, signal: AbortSignal | undefined) {
    this.#child = child
    this.#sockets = sockets
    this.#qmp = qmp
    this.#console = serial
    this.#signal = signal
  }

  /** Starts QEMU and connects to it. Throws UNAVAILABLE with its words if it does not start. */
  static async start(options: MachineOptions): Promise<Machine> {
    const sockets = await mkdtemp(join(tmpdir(), 'thaw-qemu-'))
    const [qemu = options.qemu, ...args] = [...(options.launcher ?? []), options.qemu, ...commandLine(options, sockets)]
    const child = spawn(qemu, args, { stdio: ['ignore', 'ignore', 'pipe'] })
    const given = AbortSignal.any([ended(child), ...(options.signal ? [options.signal] : [])])
    try {
      return await within('starting QEMU', START_TIMEOUT_MS, given, async signal => {
        const serial = await LineSocket.connect(join(sockets, 'console'), signal)
        const qmp = await Qmp.connect(join(sockets, 'qmp'), signal)
        return new Machine(child, sockets, qmp, serial, options.signal)
      })
    } catch (error) {
      await end(child)
      await rm(sockets, { recursive: true, force: true })
      throw error
    }
  }

  /** The process id of QEMU. */
  get pid(): number | undefined {
    return this.#child.pid
  }

  /** Sends a line to the guest and waits for the line of its answer that begins with `word`. */
  async ask(line: string, word: string): Promise<string> {
    this.#console.send(line)
    return await this.until(word)
  }

  /** Sends a request to the guest's runtime and waits for its answer. The guest ends, and UNAVAILABLE is thrown, if it cannot answer. */
  async request(request: GuestRequest, argument = ''): Promise<string> {
    return await this.ask(`${request} ${argument}`, ANSWER_WORDS[request])
  }

  /** Waits for a line of the guest that begins with `word` and returns what follows the word. UNAVAILABLE if the guest ends first. */
  async until(word: string): Promise<string> {
    return await within(`waiting for the guest's ${word}`, ANSWER_TIMEOUT_MS, this.#signal, async signal => {
      const seen: string[] = []
      for (;;) {
        const line = await this.#console.next(signal)
        if (line === undefined) throw new ThawError('UNAVAILABLE', `the guest ended before ${word}: ${seen.slice(-TAIL_LINES).join(' | ')}`)
        if (line.startsWith(word)) return line.slice(word.length).trim()
        seen.push(line)
      }
    })
  }

  /** Stops the guest and writes all of the machine but its memory to `stateFile`. The memory file is still until `proceed`. */
  async save(stateFile: string): Promise<void> {
    await within('saving the machine', COMMAND_TIMEOUT_MS, this.#signal, async signal => {
      await this.#qmp.execute('stop', {}, signal)
      await this.#ignoreSharedMemory(signal)
      // Renamed at the end of its input: QEMU says `completed` before the program that it writes to has written everything.
      const part = `${stateFile}.part`
      await this.#qmp.execute('migrate', { uri: `exec:cat > ${quoted(part)} && mv ${quoted(part)} ${quoted(stateFile)}` }, signal)
      for (let status: string | undefined; status !== 'completed'; await sleep(POLL_MS, undefined, { signal })) {
        status = await this.#qmp.status('query-migrate', signal)
        if (status === 'failed' || status === 'cancelled') throw new ThawError('UNAVAILABLE', `QEMU could not save the machine: ${status}`)
      }
      while (!(await exists(stateFile))) await sleep(POLL_MS, undefined, { signal })
    })
  }

  /** Makes a machine that was started with `incoming` the one in `stateFile`; `proceed` lets it run. */
  async resume(stateFile: string): Promise<void> {
    await within('resuming the machine', COMMAND_TIMEOUT_MS, this.#signal, async signal => {
      await this.#ignoreSharedMemory(signal)
      await this.#qmp.execute('migrate-incoming', { uri: `exec:cat ${quoted(stateFile)}` }, signal)
      while ((await this.#qmp.status('query-status', signal)) === 'inmigrate') await sleep(POLL_MS, undefined, { signal })
    })
  }

  /** Lets a stopped guest run on. */
  async proceed(): Promise<void> {
    await within('letting the guest run', COMMAND_TIMEOUT_MS, this.#signal, signal => this.#qmp.execute('cont', {}, signal))
  }

  /** Kills QEMU and waits until it is gone. The memory file stays, as the guest left it. */
  async close(): Promise<void> {
    this.#qmp.close()
    this.#console.close()
    await end(this.#child)
    await rm(this.#sockets, { recursive: true, force: true })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #ignoreSharedMemory(signal: AbortSignal): Promise<void> {
    await this.#qmp.execute('migrate-set-capabilities', { capabilities: [{ capability: 'x-ignore-shared', state: true }] }, signal)
  }
}

/** A resuming machine must be given the very same devices, kernel and initrd as the one that was saved. */
function commandLine(options: MachineOptions, sockets: string): readonly string[] {
  const { memory, sizeMiB, kernel, initrd, incoming, generation = 'auto', disk } = options
  return [
    ...['-M', 'q35', '-accel', 'tcg', '-m', `${sizeMiB}M`, '-smp', '1'],
    ...['-display', 'none', '-no-user-config', '-nodefaults', '-no-reboot'],
    ...['-object', `memory-backend-file,id=m,size=${sizeMiB}M,mem-path=${escaped(memory)},share=on`, '-machine', 'memory-backend=m'],
    ...['-kernel', kernel, '-initrd', initrd, '-append', 'console=ttyS0 quiet panic=-1'],
    ...['-device', `vmgenid,guid=${generation}`],
    ...(disk === undefined ? [] : ['-drive', `if=none,id=d,format=raw,file=${escaped(disk)}`, '-device', 'virtio-blk-pci,drive=d']),
    ...['-serial', `unix:${escaped(join(sockets, 'console'))},server=on,wait=off`],
    ...['-qmp', `unix:${escaped(join(sockets, 'qmp'))},server=on,wait=off`],
    ...(incoming ? ['-incoming', 'defer'] : []),
  ]
}

/** QEMU doubles a comma inside an option's value. */
function escaped(value: string): string {
  return value.replaceAll(',', ',,')
}

/** For the shell that QEMU starts. */
function quoted(path: string): string {
  return `'${path.replaceAll("'", `'\\''`)}'`
}

async function exists(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined)) !== undefined
}

/** Aborts when the process has ended or cannot be started; the reason has what it wrote to stderr. */
function ended(child: ChildProcess): AbortSignal {
  const controller = new AbortController()
  const abort = (why: string, cause?: unknown): void => controller.abort(new ThawError('UNAVAILABLE', why, { cause }))
  let said = ''
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-STDERR_CHARACTERS)
  })
  child.once('error', cause => abort(`QEMU cannot be started: ${cause.message}`, cause))
  child.once('close', (code, signal) => abort(`QEMU ended with ${code ?? signal}: ${said.trim()}`))
  return controller.signal
}

async function end(child: ChildProcess): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
  const exited = once(child, 'exit')
  child.kill('SIGKILL')
  await exited
}
