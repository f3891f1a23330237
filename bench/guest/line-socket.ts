/**
 * A Unix socket read line by line: QEMU's control channel and the guest's console both are one.
 *
 * Lines wait in memory until they are asked for. A guest that prints without end would fill it, so the oldest beyond `LINES_MAX` go.
 */
import { EventEmitter, once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

const LINES_MAX = 10_000
const RETRY_MS = 10

export class LineSocket {
  readonly #socket: Socket
  readonly #arrivals = new EventEmitter()
  readonly #lines: string[] = []
  #partial = ''
  #ended = false

  private constructor(socket: Socket) {
    this.#socket = socket
    socket.setEncoding('utf8')
    socket.on('data', (text: string) => this.#take(text))
    // A reset of the other side ends the lines as its close does; who reads them says what was missing.
    socket.on('error', () => socket.destroy())
    socket.on('close', () => {
      this.#ended = true
      this.#arrivals.emit('arrival')
    })
  }

  /** Connects to `path`, again and again until it exists and accepts: it belongs to a process that is only starting. */
  static async connect(path: string, signal: AbortSignal): Promise<LineSocket> {
    for (;;) {
      signal.throwIfAborted()
      const socket = connect(path)
      try {
        await once(socket, 'connect', { signal })
        return new LineSocket(socket)
      } catch {
        socket.destroy()
        await sleep(RETRY_MS, undefined, { signal })
      }
    }
  }

  /** The next line without its end, or undefined when the other side has closed. Rejects when `signal` aborts. */
  async next(signal: AbortSignal): Promise<string | undefined> {
    while (this.#lines.length === 0 && !this.#ended) await once(this.#arrivals, 'arrival', { signal })
    return this.#lines.shift()
  }

  /** Sends `line` and a line end. */
  send(line: string): void {
    this.#socket.write(`${line}\n`)
  }

  close(): void {
    this.#socket.destroy()
  }

  #take(text: string): void {
    const pieces = (this.#partial + text).split(/\r*\n/)
    this.#partial = pieces.pop() ?? ''
    this.#lines.push(...pieces)
    if (this.#lines.length > LINES_MAX) this.#lines.splice(0, this.#lines.length - LINES_MAX)
    if (pieces.length > 0) this.#arrivals.emit('arrival')
  }
}
