/**
 * One ioredis connection under supervision: errors are kept instead of thrown at the process, a handshake that hangs is broken off, a server whose answer to the
 * handshake is not the one that was asked for is not used, and replies that cannot be right end the connection before they are parsed. Connecting again is ioredis' affair (redis-server.ts) or its cluster's (redis-cluster.ts).
 *
 * Sockets come from a connector of our own, because ioredis' keeps a socket for two seconds after it was told to disconnect, and because a cluster makes
 * connections that nobody else sees: all sockets of a cache can be destroyed when it closes. ioredis' own timers (the pause before it connects again, the limit
 * of a TCP connect) go by the machine's clock: there are no sockets in virtual time.
 */
import { once } from 'node:events'
import { connect as connectTcp, isIP, type Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import type { ClusterOptions, Command, Redis, RedisOptions } from 'ioredis'
import type { Clock } from '../util/clock.ts'
import type { Trust } from '../util/trust.ts'
import { misfitOf, refusalOf } from './redis-errors.ts'
import { ReplyGuard } from './redis-replies.ts'
import type { RedisAddress } from './redis-url.ts'

export type Ioredis = Pick<typeof import('ioredis'), 'AbstractConnector' | 'Cluster' | 'Command' | 'Redis'>

/** What a server by itself and the nodes of a cluster have in common. */
export type CommonOptions = Omit<NonNullable<ClusterOptions['redisOptions']>, 'replyMapping'>

const CONNECT_TIMEOUT_MS = 1_000

export function connectionOptions(address: RedisAddress, sockets: Sockets): CommonOptions {
  return {
    ...(address.username === undefined ? {} : { username: address.username }),
    ...(address.password === undefined ? {} : { password: address.password }),
    ...(address.tls ? { tls: {} } : {}),
    db: address.db,
    Connector: sockets.Connector,
    connectTimeout: CONNECT_TIMEOUT_MS,
    // A command whose connection is lost fails at once: there is a store behind this cache.
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    // RESP 2: nothing of RESP 3 is needed, and what a server may send is less.
    protocol: 2,
    disableClientInfo: true,
  }
}

/** What may change while a cache is open. */
export interface Secrets {
  readonly trust: Trust
  /** Undefined: that of the URLs. Never rejects. */
  password(): Promise<string | undefined>
}

/** The sockets of one cache. */
export class Sockets {
  readonly #open = new Set<Socket>()
  /** To be given to ioredis. */
  readonly Connector: NonNullable<RedisOptions['Connector']>

  /** `secrets` are looked at for each connection. */
  constructor({ AbstractConnector }: Ioredis, { trust, password }: Secrets) {
    const open = this.#open
    this.Connector = class extends AbstractConnector {
      readonly #options: RedisOptions

      constructor(options: unknown) {
        super(0)
        this.#options = options as RedisOptions
      }

      /** Resolves to a socket that is still connecting, as ioredis wants it. */
      async connect(): Promise<Socket> {
        this.connecting = true
        const { host = 'localhost', port = 6379, tls } = this.#options
        const given = await password()
        if (given !== undefined) this.#options.password = given
        const secureContext = tls === undefined ? undefined : await trust.context()
        if (!this.connecting) throw new Error('the connection was closed')
        // An address is no server name; a name is one that Node sends only if told to.
        const named = isIP(host) === 0 ? { servername: host } : {}
        const socket = secureContext === undefined ? connectTcp({ host, port }) : connectTls({ host, port, ...named, secureContext })
        this.stream = socket
        open.add(socket)
        socket.once('close', () => open.delete(socket))
        socket.on('error', error => {
          this.firstError = error
        })
        return socket
      }

      override disconnect(): void {
        this.connecting = false
        this.stream?.destroy()
      }
    }
  }

  /** Destroys all that are open, and resolves when they are closed. */
  async destroy(): Promise<void> {
    await Promise.all(
      Array.from(this.#open, socket => {
        const closed = once(socket, 'close').catch(() => undefined)
        socket.destroy()
        return closed
      }),
    )
  }
}

/** `independent`: it has all keys that it is asked for, and takes writes. */
export type NodeRole = 'independent' | 'cluster'

export class RedisConnection {
  readonly name: string
  readonly redis: Redis
  readonly #clock: Clock
  readonly #role: NodeRole
  readonly #attempted = Promise.withResolvers<void>()
  #callOff: (() => void) | undefined
  #lastError: Error | undefined
  /** The connection is ending because of `#lastError`: what else goes wrong follows from that. */
  #isRefused = false

  constructor(redis: Redis, name: string, clock: Clock, role: NodeRole) {
    this.name = name
    this.redis = redis
    this.#clock = clock
    this.#role = role
    this.#superviseHandshake()
    redis.on('error', (error: Error) => {
      if (!this.#isRefused) this.#lastError = error
    })
    redis.on('connect', () => this.#onConnect())
    redis.on('ready', () => {
      this.#lastError = undefined
      this.#settle()
    })
    redis.on('close', () => {
      this.#isRefused = false
      this.#settle()
    })
    redis.on('end', () => this.#settle())
  }

  get isReady(): boolean {
    return this.redis.status === 'ready'
  }

  /** Resolves when the first attempt to connect came to something, good or bad. */
  get attempted(): Promise<void> {
    return this.#attempted.promise
  }

  /** Why it is not ready, as far as is known. */
  get lastError(): Error | undefined {
    return this.#lastError
  }

  /** Ends the connection, and with it every command under way. Another one is made. */
  drop(): void {
    if (this.redis.status === 'ready' || this.redis.status === 'connect') this.redis.disconnect(true)
  }

  #settle(): void {
    this.#callOff?.()
    this.#attempted.resolve()
  }

  /** The handshake has begun. ioredis emits this in the tick in which it began to listen, so no reply has come yet. */
  #onConnect(): void {
    this.#callOff?.()
    this.#callOff = this.#clock.after(CONNECT_TIMEOUT_MS, () => {
      this.#lastError = new Error(`no answer to the handshake within ${CONNECT_TIMEOUT_MS} ms`)
      this.drop()
    })
    this.#guardReplies()
  }

  /** Looks at the replies to what ioredis sends before it calls a connection ready. */
  #superviseHandshake(): void {
    const { redis } = this
    const send = redis.sendCommand.bind(redis)
    redis.sendCommand = (command: Command, stream) => {
      if (redis.status === 'connect' && ['auth', 'select', 'info'].includes(command.name)) this.#supervise(command)
      return send(command, stream)
    }
  }

  #supervise(command: Command): void {
    const { name, resolve, reject } = command
    // ioredis took the password before the connector looked for a new one.
    if (name === 'auth') command.args = [...command.args.slice(0, -1), this.redis.options.password ?? '']
    command.reject = error => reject(error.name === 'ReplyError' ? this.#refuse(refusalOf(name, error)) : error)
    if (name !== 'info' || this.#role === 'cluster') return
    command.resolve = reply => {
      const misfit = misfitOf(String(reply))
      if (misfit === undefined) resolve(reply)
      else reject(this.#refuse(misfit))
    }
  }

  #refuse(refusal: Error): Error {
    this.#isRefused = true
    this.#lastError = refusal
    this.drop()
    return refusal
  }

  #guardReplies(): void {
    const { stream } = this.redis
    const guard = new ReplyGuard()
    const parsers = stream.listeners('data')
    stream.removeAllListeners('data')
    stream.on('data', (chunk: Buffer) => {
      if (stream.destroyed) return
      if (guard.accepts(chunk, this.redis.commandQueue.length)) {
        for (const parse of parsers) parse.call(stream, chunk)
      } else {
        stream.destroy(new Error('what it sent is not the Redis protocol'))
      }
    })
  }
}
