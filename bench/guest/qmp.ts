/**
 * QEMU's control channel: JSON documents, a line each, one command at a time (QEMU, "QEMU Machine Protocol Specification").
 *
 * Events are passed over: whoever waits for a state asks for it, which also works when the event came before the question.
 */
import { ThawError } from '../../src/errors.ts'
import { LineSocket } from './line-socket.ts'

export class Qmp {
  readonly #socket: LineSocket

  private constructor(socket: LineSocket) {
    this.#socket = socket
  }

  /** Connects and leaves the greeting behind: the next thing is a command. */
  static async connect(path: string, signal: AbortSignal): Promise<Qmp> {
    const qmp = new Qmp(await LineSocket.connect(path, signal))
    await qmp.execute('qmp_capabilities', {}, signal)
    return qmp
  }

  /** What QEMU returns for the command. Throws UNAVAILABLE, with QEMU's words, when it refuses or has gone. */
  async execute(command: string, args: Readonly<Record<string, unknown>>, signal: AbortSignal): Promise<unknown> {
    this.#socket.send(JSON.stringify({ execute: command, arguments: args }))
    for (;;) {
      const line = await this.#socket.next(signal)
      if (line === undefined) throw new ThawError('UNAVAILABLE', `QEMU ended during ${command}`)
      const reply: { readonly return?: unknown; readonly error?: unknown } = JSON.parse(line)
      if (reply.error !== undefined) throw new ThawError('UNAVAILABLE', `QEMU refuses ${command}: ${JSON.stringify(reply.error)}`)
      if (reply.return !== undefined) return reply.return
    }
  }

  /** The text member `status` of what a query returns. */
  async status(query: string, signal: AbortSignal): Promise<string | undefined> {
    const reply = await this.execute(query, {}, signal)
    const status = typeof reply === 'object' && reply !== null && 'status' in reply ? reply.status : undefined
    return typeof status === 'string' ? status : undefined
  }

  close(): void {
    this.#socket.close()
  }
}
