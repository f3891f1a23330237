/**
 * `serveNbd`: an image of a restore as a block device over the network block device protocol, on a Unix socket or over TCP.
 *
 * Connections are served on the restore's pager (nbd/server.ts), which this thread cannot hold up. Those with TLS are served on this thread, as fast as it has time for them
 * (nbd/stream-server.ts).
 */
import type { Restore } from '../restore.ts'
import type { Descriptor } from '../util/descriptor.ts'
import { loadNative, type Native } from '../util/native.ts'
import { type Closed, Lifecycle } from './lifecycle.ts'
import { listenAtAddress, type TcpAddress } from './nbd/listen.ts'
import { STRING_BYTES_MAX } from './nbd/protocol.ts'
import type { NbdEvent, NbdSpec } from './nbd/server.ts'
import type { NbdTlsOptions, TlsFiles } from './nbd/tls-files.ts'
import { checkOwner, checkPath, checkWhole, HANDSHAKE_TIMEOUT_MS, TIMEOUT_MS_MAX } from './options.ts'
import { listenAt, removeSocketFile } from './socket.ts'

export interface NbdOptions {
  /** Path of the Unix socket that is made. What a server that died has left there is replaced. Either this or `listen`. */
  readonly socket?: string | undefined
  /** Owner of the socket; default: who runs this process. Needs root. */
  readonly uid?: number | undefined
  readonly gid?: number | undefined
  /** Permission bits of the socket; default 0600. */
  readonly mode?: number | undefined
  /** Where to listen for TCP; port 0 takes one that is free. Whoever can connect can read the image: without `tls`, listen where nobody else can. */
  readonly listen?: { readonly host: string; readonly port: number } | undefined
  /** PEM files. Every client has to begin TLS before it is told anything; with `caFile` it has to show a certificate signed by that, too. */
  readonly tls?: NbdTlsOptions | undefined
  /** Clients can write, into the restore's overlay; default: they cannot. */
  readonly writable?: boolean | undefined
  /** What clients call it; default: the image's name. The empty name means it, too. */
  readonly exportName?: string | undefined
  /** Clients at a time; one more is refused. Default 256. */
  readonly connectionsMax?: number | undefined
  /** How long a client may take for its handshake, with TLS for both; default 10 s. */
  readonly handshakeTimeoutMs?: number | undefined
}

/** How it ended: `closed` by its caller or with its restore; `failed`: nothing is served any more. */
export type NbdEnd = Closed | Failed

interface Failed {
  readonly reason: 'failed'
  readonly why: string
}

const CONNECTIONS_MAX_DEFAULT = 256
const CONNECTIONS_MAX = 65_536

/**
 * Serves an image of a restore. Resolves when clients can connect.
 * @throws NOT_FOUND if there is no such image, certificate or address; CONFLICT if the socket's path or the port is taken, or something else writes to the image; DENIED, NO_SPACE,
 * UNAVAILABLE; UNSUPPORTED without koffi; CLOSED; TypeError and RangeError for options that cannot be
 */
export async function serveNbd(restore: Restore, image: string, options: NbdOptions): Promise<NbdServer> {
  checkOptions(options)
  restore.image(image)
  const tls = options.tls && (await (await import('./nbd/tls-files.ts')).TlsFiles.open(options.tls))
  const server = new NbdServer(restore, image, options)
  await server.start(await loadNative('serving NBD'), tls)
  return server
}

function checkOptions(options: NbdOptions): void {
  const { socket, listen, exportName, connectionsMax, handshakeTimeoutMs } = options
  if ((socket === undefined) === (listen === undefined)) throw new TypeError('name either a socket or an address to listen at')
  if (socket !== undefined) checkPath('socket', socket)
  checkOwner(options)
  checkWhole('port', listen?.port, 0, 65_535)
  checkWhole('connectionsMax', connectionsMax, 1, CONNECTIONS_MAX)
  checkWhole('handshakeTimeoutMs', handshakeTimeoutMs, 1, TIMEOUT_MS_MAX)
  checkWhole('length of exportName', exportName === undefined ? undefined : Buffer.byteLength(exportName), 0, STRING_BYTES_MAX)
}

/** Made by `serveNbd`. */
export class NbdServer implements AsyncDisposable {
  /** Resolves when nothing is served any more; never rejects. */
  readonly closed: Promise<NbdEnd>
  readonly #image: string
  readonly #options: NbdOptions
  readonly #life: Lifecycle<Failed>
  #address: TcpAddress | undefined
  #connections = 0

  /** @internal */
  constructor(restore: Restore, image: string, options: NbdOptions) {
    this.#image = image
    this.#options = options
    this.#address = options.listen
    const writable = options.writable === true ? [image] : []
    this.#life = new Lifecycle({ restore, kind: 'nbd', path: () => options.socket ?? this.uri, image, writable })
    this.closed = this.#life.closed
  }

  /** Where clients connect (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md). */
  get uri(): string {
    const { socket, tls } = this.#options
    const scheme = tls === undefined ? 'nbd' : 'nbds'
    const name = encodeURIComponent(this.#exportName)
    if (socket !== undefined) return `${scheme}+unix:///${name}?socket=${encodeURI(socket)}`
    const { host, port } = this.#address!
    return `${scheme}://${host.includes(':') ? `[${host}]` : host}:${port}/${name}`
  }

  /** Where it listens for TCP, with the port that was taken. */
  get address(): { readonly host: string; readonly port: number } | undefined {
    return this.#options.listen && this.#address
  }

  /** Clients that are served now. */
  get connections(): number {
    return this.#life.isServing ? this.#connections : 0
  }

  get #exportName(): string {
    return this.#options.exportName ?? this.#image
  }

  get #exported(): Pick<NbdSpec, 'image' | 'exportName' | 'isWritable' | 'connectionsMax' | 'handshakeTimeoutMs'> {
    const { writable = false, connectionsMax = CONNECTIONS_MAX_DEFAULT, handshakeTimeoutMs = HANDSHAKE_TIMEOUT_MS } = this.#options
    return { image: this.#image, exportName: this.#exportName, isWritable: writable, connectionsMax, handshakeTimeoutMs }
  }

  /** @internal */
  start(native: Native, tls: TlsFiles | undefined): Promise<void> {
    return this.#life.start(async () => {
      const listener = await this.#listen(native)
      if (tls === undefined) await this.#serveOnPager(listener)
      else await this.#serveHere(listener, tls)
    })
  }

  async #serveOnPager(listener: Descriptor): Promise<void> {
    const isTcp = this.#options.listen !== undefined
    const spec: NbdSpec = { kind: 'nbd', listenFd: listener.fd, isTcp, ...this.#exported }
    await this.#life.attach(spec, {
      onEvent: event => this.#hear(event as NbdEvent),
      onDied: ({ message }) => void this.#life.end({ reason: 'failed', why: message }),
    })
  }

  async #serveHere(listener: Descriptor, tls: TlsFiles): Promise<void> {
    const images = await this.#life.attachHere()
    // With it comes node:tls, which nobody else pays for.
    const { StreamServer } = await import('./nbd/stream-server.ts')
    const server = new StreamServer({ ...this.#exported, image: images.get(this.#image)!, tls, onEvent: event => this.#hear(event) })
    this.#life.own(() => server.close())
    await server.listen(listener.release())
  }

  async #listen(native: Native): Promise<Descriptor> {
    const { socket, listen } = this.#options
    if (socket === undefined) {
      const { fd, address } = await listenAtAddress(native, listen!)
      this.#address = { host: listen!.host, port: address.port }
      return this.#life.ownDescriptor(fd)
    }
    const { fd, file } = await listenAt(native, socket, this.#options)
    this.#life.own(() => removeSocketFile(file))
    return this.#life.ownDescriptor(fd)
  }

  #hear(event: NbdEvent): void {
    if (event.kind === 'unreadable') {
      this.#life.emit({ kind: event.code === 'CORRUPT' ? 'corrupt' : 'unreadable', page: event.page, code: event.code })
    } else if (event.kind === 'broken') void this.#life.end({ reason: 'failed', why: event.reason })
    else {
      this.#connections = event.connections
      if (event.kind === 'disconnected' && event.error !== undefined)
        process.emitWarning(`an NBD connection ended by a bug: ${event.error}`)
      this.#life.emit({ kind: event.kind })
    }
  }

  /** Ends it: clients are cut off. Idempotent. */
  close(): Promise<void> {
    return this.#life.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}
