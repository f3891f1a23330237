/** An NBD client over a Unix socket, with as little of the protocol as reading takes: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md */
import { connect, type Socket } from 'node:net'

export class NbdClient {
  readonly #socket: Socket
  #received = Buffer.alloc(0)
  #news = Promise.withResolvers<void>()
  #cookie = 0n

  private constructor(socket: Socket) {
    this.#socket = socket
    const tell = (): void => {
      this.#news.resolve()
      this.#news = Promise.withResolvers()
    }
    socket.on('data', (bytes: Buffer) => {
      this.#received = Buffer.concat([this.#received, bytes])
      tell()
    })
    socket.on('error', () => undefined).on('close', tell)
  }

  static async connect(path: string): Promise<NbdClient> {
    const client = new NbdClient(connect(path))
    await client.#take(18)
    const name = Buffer.alloc(20)
    // NBD_FLAG_C_FIXED_NEWSTYLE and NO_ZEROES; NBD_OPT_EXPORT_NAME with the empty name.
    name.writeUInt32BE(3, 0)
    name.write('IHAVEOPT', 4)
    name.writeUInt32BE(1, 12)
    client.#socket.write(name)
    await client.#take(10)
    return client
  }

  /** @returns the one byte that all of them are, or all those that they are */
  async read(offset: number, sizeBytes: number): Promise<string> {
    const request = Buffer.alloc(28)
    request.writeUInt32BE(0x25609513, 0)
    request.writeBigUInt64BE(++this.#cookie, 8)
    request.writeBigUInt64BE(BigInt(offset), 16)
    request.writeUInt32BE(sizeBytes, 24)
    this.#socket.write(request)
    const error = (await this.#take(16)).readUInt32BE(4)
    if (error !== 0) throw new Error(`NBD error ${error}`)
    return [...new Set((await this.#take(sizeBytes)).toString('latin1'))].join('')
  }

  close(): void {
    this.#socket.destroy()
  }

  async #take(sizeBytes: number): Promise<Buffer> {
    while (this.#received.length < sizeBytes) {
      if (this.#socket.destroyed) throw new Error('hung up')
      await this.#news.promise
    }
    const taken = this.#received.subarray(0, sizeBytes)
    this.#received = this.#received.subarray(sizeBytes)
    return taken
  }
}
