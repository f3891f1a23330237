/**
 * `serveNbd`: an image of a restore as a block device over the network block device protocol, on a Unix socket or over TCP.
 *
 * Connections are served on the restore's pager (nbd/server.ts), which this thread cannot hold up. Those with TLS are served on this thread, as fast as it has time for them
 * (nbd/stream-server.ts).
 */
import { closeSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { type ErrorCode, fromErrno } from '../errors.ts'
import type { FrontEndEvent } from '../pager.ts'
import type { AttachOptions, Restore, RestoreEvent } from '../restore.ts'
import { loadNative, type Native } from '../util/native.ts'
import { listenAtAddress, type TcpAddress } from './nbd/listen.ts'
import { STRING_BYTES_MAX } from './nbd/protocol.ts'
import type { NbdEvent, NbdSpec } from './nbd/server.ts'
import type { TlsFiles } from './nbd/stream-connection.ts'
import { checkOwner, checkPath, checkWhole } from './options.ts'
import { listenAt, removeSocketFile, type SocketFile } from './socket.ts'

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
}

export interface NbdTlsOptions {
  readonly certFile: string
  readonly keyFile: string
  readonly caFile?: string | undefined
}

/** How it ended: `closed` by its caller or with its restore; `failed`: nothing is served any more. */
export type NbdEnd = { readonly reason: 'closed' } | { readonly reason: 'failed'; readonly why: string }

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
  const tls = options.tls && (await readTlsFiles(options.tls))
  const native = await loadNative('serving NBD')
  const server = new NbdServer(restore, image, options)
  if (tls !== undefined) await server.startHere(native, tls)
  else await server.startOnPager(native)
  return server
}

function checkOptions(options: NbdOptions): void {
  const { socket, listen, exportName, connectionsMax } = options
  if ((socket === undefined) === (listen === undefined)) throw new TypeError('name either a socket or an address to listen at')
  if (socket !== undefined) checkPath('socket', socket)
  checkOwner(options)
  checkWhole('port', listen?.port, 0, 65_535)
  checkWhole('connectionsMax', connectionsMax, 1, CONNECTIONS_MAX)
  checkWhole('length of exportName', exportName === undefined ? undefined : Buffer.byteLength(exportName), 0, STRING_BYTES_MAX)
}

async function readTlsFiles({ certFile, keyFile, caFile }: NbdTlsOptions): Promise<TlsFiles> {
  const read = (file: string): Promise<Buffer> =>
    readFile(file).catch((error: unknown) => {
      throw fromErrno(error, 'cannot read', file)
    })
  const [cert, key, ca] = await Promise.all([read(certFile), read(keyFile), caFile && read(caFile)])
  return { cert, key, ca: ca || undefined }
}

/** Made by `serveNbd`. */
export class NbdServer implements AsyncDisposable {
  /** Resolves when nothing is served any more; never rejects. */
  readonly closed: Promise<NbdEnd>
  readonly #restore: Restore
  readonly #image: string
  readonly #options: NbdOptions
  readonly #ended = Promise.withResolvers<NbdEnd>()
  readonly #undo: (() => void | Promise<void>)[] = []
  #address: TcpAddress | undefined
  #connections = 0
  #finishing: Promise<void> | undefined

  /** @internal */
  constructor(restore: Restore, image: string, options: NbdOptions) {
    this.#restore = restore
    this.#image = image
    this.#options = options
    this.#address = options.listen
    this.closed = this.#ended.promise
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
    return this.#connections
  }

  get #exportName(): string {
    return this.#options.exportName ?? this.#image
  }

  get #exported(): Pick<NbdSpec, 'image' | 'exportName' | 'isWritable' | 'connectionsMax'> {
    const { writable = false, connectionsMax = CONNECTIONS_MAX_DEFAULT } = this.#options
    return { image: this.#image, exportName: this.#exportName, isWritable: writable, connectionsMax }
  }

  /** @internal */
  async startOnPager(native: Native): Promise<void> {
    await this.#startOrUndo(async () => {
      const listenFd = await this.#listen(native)
      this.#undo.push(() => closeSync(listenFd))
      const isTcp = this.#options.listen !== undefined
      const descriptors = new SharedArrayBuffer(this.#exported.connectionsMax * Int32Array.BYTES_PER_ELEMENT)
      const spec: NbdSpec = { kind: 'nbd', listenFd, isTcp, descriptors, ...this.#exported }
      const { detach, died } = await this.#restore.attach(spec, this.#attachOptions())
      this.#undo.push(detach)
      void died.then(error => {
        // Nobody serves them any more: their clients are to hear of it.
        for (const descriptor of new Int32Array(descriptors)) if (descriptor !== 0) closeSync(descriptor - 1)
        return this.#finish({ reason: 'failed', why: error.message })
      })
    })
  }

  /** @internal */
  async startHere(native: Native, tls: TlsFiles): Promise<void> {
    await this.#startOrUndo(async () => {
      const { images, detach } = await this.#restore.attachHere(this.#attachOptions())
      this.#undo.push(detach)
      // With it comes node:tls, which nobody else pays for.
      const { StreamServer } = await import('./nbd/stream-server.ts')
      const server = new StreamServer({
        ...this.#exported,
        image: images.get(this.#image)!,
        tls,
        onEvent: event => this.#hear(event),
      })
      this.#undo.push(() => server.close())
      await server.listen(await this.#listen(native))
    })
  }

  async #startOrUndo(start: () => Promise<void>): Promise<void> {
    try {
      await start()
    } catch (error) {
      await this.#letGo()
      throw error
    }
  }

  /** @returns a descriptor that listens */
  async #listen(native: Native): Promise<number> {
    const { socket, listen } = this.#options
    if (socket === undefined) {
      const { fd, address } = await listenAtAddress(native, listen!)
      this.#address = { host: listen!.host, port: address.port }
      return fd
    }
    const { fd, file }: { fd: number; file: SocketFile } = await listenAt(native, socket, this.#options)
    this.#undo.push(() => removeSocketFile(file))
    return fd
  }

  #attachOptions(): AttachOptions {
    return {
      kind: 'nbd',
      path: this.#options.socket ?? this.uri,
      image: this.#image,
      writable: this.#options.writable === true ? [this.#image] : [],
      onEvent: (event: FrontEndEvent) => this.#hear(event as NbdEvent),
      close: () => this.close(),
    }
  }

  #hear(event: NbdEvent): void {
    if (event.kind === 'unreadable') this.#hearOfUnreadable(event.page, event.code)
    else {
      this.#connections = event.connections
      if (event.kind === 'disconnected' && event.error !== undefined)
        process.emitWarning(`an NBD connection ended by a bug: ${event.error}`)
      this.#emit({ kind: event.kind })
    }
  }

  #hearOfUnreadable(page: number, code: ErrorCode | undefined): void {
    this.#emit({ kind: code === 'CORRUPT' ? 'corrupt' : 'unreadable', page, code })
  }

  #emit(event: NbdRestoreEvent): void {
    this.#restore.emit({ frontEnd: 'nbd', path: this.#options.socket ?? this.uri, image: this.#image, ...event } as RestoreEvent)
  }

  /** Ends it: clients are cut off. Idempotent. */
  close(): Promise<void> {
    return this.#finish({ reason: 'closed' })
  }

  #finish(end: NbdEnd): Promise<void> {
    this.#finishing ??= this.#letGo().then(() => {
      this.#connections = 0
      this.#emit({ kind: 'closed', reason: end.reason })
      this.#ended.resolve(end)
    })
    return this.#finishing
  }

  /** The last thing that was made goes first. */
  async #letGo(): Promise<void> {
    for (const undo of this.#undo.splice(0).reverse()) await undo()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

type DistributiveOmit<T, K extends PropertyKey> = T extends unknown ? Omit<T, K> : never
type NbdRestoreEvent = DistributiveOmit<RestoreEvent, 'frontEnd' | 'path' | 'image'>
