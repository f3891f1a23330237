/**
 * NBD with TLS, over streams of Node's, on a thread with an event loop. The sessions are those of the pager's server; only what carries them differs.
 *
 * TLS begins inside a session that began in the clear (STARTTLS); what a client sent before it counts for nothing, and bytes that it sent along with the request are not believed
 * to be behind TLS: they end the connection.
 */
import { once } from 'node:events'
import { createServer, type Server, type Socket } from 'node:net'
import type { ServedImage } from '../../pager.ts'
import { type NbdEvent, UNREADABLE_INTERVAL_MS } from './server.ts'
import { StreamConnection } from './stream-connection.ts'
import type { TlsFiles } from './tls-files.ts'
import { ReplyBuffer } from './wire.ts'

export interface StreamServerOptions {
  readonly image: ServedImage
  readonly exportName: string
  /** Clients may write. */
  readonly isWritable: boolean
  readonly connectionsMax: number
  readonly handshakeTimeoutMs: number
  readonly tls: TlsFiles
  onEvent(event: NbdEvent): void
}

export class StreamServer {
  readonly #options: StreamServerOptions
  readonly #server: Server
  readonly #replies = new ReplyBuffer()
  readonly #connections = new Set<StreamConnection>()
  /** Those in their handshake, the oldest first. */
  readonly #haggling = new Map<StreamConnection, NodeJS.Timeout>()
  #unreadableAt = Number.NEGATIVE_INFINITY

  constructor(options: StreamServerOptions) {
    this.#options = options
    this.#server = createServer({ noDelay: true, keepAlive: true }, socket => this.#admit(socket))
  }

  /** @param fd listens, and becomes the server's */
  async listen(fd: number): Promise<void> {
    this.#server.listen({ fd })
    await once(this.#server, 'listening')
  }

  /** Cuts all clients off. */
  async close(): Promise<void> {
    for (const connection of this.#connections) connection.close()
    if (!this.#server.listening) return
    this.#server.close()
    await once(this.#server, 'close')
  }

  #admit(socket: Socket): void {
    const { connectionsMax } = this.#options
    const [oldest] = this.#haggling.keys()
    if (this.#connections.size >= connectionsMax) oldest?.close()
    if (this.#connections.size >= connectionsMax) socket.destroy()
    else this.#open(socket)
  }

  #open(socket: Socket): void {
    const { image, exportName, isWritable, tls, handshakeTimeoutMs } = this.#options
    const connection: StreamConnection = new StreamConnection({
      image,
      terms: { name: Buffer.from(exportName), sizeBytes: image.sizeBytes, isWritable: isWritable && image.isWritable },
      replies: this.#replies,
      socket,
      tls,
      onAgreed: () => this.#onAgreed(connection),
      onUnreadable: (page, code) => this.#onUnreadable({ kind: 'unreadable', page, code }),
      onClosed: error => this.#onClosed(connection, error),
    })
    this.#connections.add(connection)
    this.#haggling.set(
      connection,
      setTimeout(() => connection.close(), handshakeTimeoutMs),
    )
    connection.open()
  }

  get #agreedCount(): number {
    return this.#connections.size - this.#haggling.size
  }

  #endHandshake(connection: StreamConnection): boolean {
    clearTimeout(this.#haggling.get(connection))
    return this.#haggling.delete(connection)
  }

  #onAgreed(connection: StreamConnection): void {
    this.#endHandshake(connection)
    this.#options.onEvent({ kind: 'connected', connections: this.#agreedCount })
  }

  #onUnreadable(event: NbdEvent): void {
    const now = performance.now()
    if (now < this.#unreadableAt + UNREADABLE_INTERVAL_MS) return
    this.#unreadableAt = now
    this.#options.onEvent(event)
  }

  #onClosed(connection: StreamConnection, error: unknown): void {
    this.#connections.delete(connection)
    const wasAgreed = !this.#endHandshake(connection)
    if (!this.#server.listening || (!wasAgreed && error === undefined)) return
    const why = error === undefined ? {} : { error: String(error) }
    this.#options.onEvent({ kind: 'disconnected', connections: this.#agreedCount, ...why })
  }
}
