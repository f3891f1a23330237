/**
 * A TCP proxy whose wire goes bad when a test says so: what the server sends can be changed on the way, held back, delayed or cut off. What the client sends
 * passes as it is.
 */
import { once } from 'node:events'
import { connect, createServer, type Server, type Socket } from 'node:net'

/** What becomes of a piece that the server sent. */
export type Fault = (piece: Buffer) => Buffer | 'stall' | 'cut'

export interface TcpProxy {
  readonly port: number
  /** Connections made through it so far. */
  readonly connections: number
  /** Applied to every piece from now on; undefined: all is well. Stalled connections stay stalled until they are closed. */
  fault: Fault | undefined
  /** Holds every piece back for that long, in order. */
  delayMs: number
  stop(): Promise<void>
}

export async function startTcpProxy(targetPort: number): Promise<TcpProxy> {
  return FaultyWire.start(targetPort)
}

class FaultyWire implements TcpProxy {
  fault: Fault | undefined
  delayMs = 0
  connections = 0
  readonly #server: Server
  readonly #sockets = new Set<Socket>()
  readonly #timers = new Set<NodeJS.Timeout>()

  private constructor(targetPort: number) {
    this.#server = createServer(client => this.#serve(client, targetPort))
  }

  static async start(targetPort: number): Promise<FaultyWire> {
    const proxy = new FaultyWire(targetPort)
    proxy.#server.listen(0, '127.0.0.1')
    await once(proxy.#server, 'listening')
    return proxy
  }

  get port(): number {
    const address = this.#server.address()
    if (address === null || typeof address === 'string') throw new Error('the proxy does not listen')
    return address.port
  }

  async stop(): Promise<void> {
    for (const timer of this.#timers) clearTimeout(timer)
    for (const socket of this.#sockets) socket.destroy()
    if (!this.#server.listening) return
    this.#server.close()
    await once(this.#server, 'close')
  }

  #serve(client: Socket, targetPort: number): void {
    this.connections++
    const server = connect(targetPort, '127.0.0.1')
    let isStalled = false
    const end = (): void => {
      client.destroy()
      server.destroy()
    }
    for (const socket of [client, server]) {
      this.#sockets.add(socket)
      socket.on('error', end)
      socket.on('close', () => {
        this.#sockets.delete(socket)
        end()
      })
    }
    client.on('data', piece => server.write(piece))
    server.on('data', piece => {
      const became = this.fault === undefined ? piece : this.fault(piece)
      if (became === 'cut') return end()
      isStalled ||= became === 'stall'
      if (isStalled || became === 'stall') return
      this.#later(() => client.writable && client.write(became))
    })
  }

  #later(call: () => void): void {
    if (this.delayMs === 0) {
      call()
      return
    }
    const timer = setTimeout(() => {
      this.#timers.delete(timer)
      call()
    }, this.delayMs)
    this.#timers.add(timer)
  }
}
