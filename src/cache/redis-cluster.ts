/**
 * A Redis or Valkey cluster: ioredis knows which node has which slot, and follows a slot that moved (MOVED, ASK), a bounded number of times.
 *
 * A breaker for the whole would be too coarse: one bad node of three would take the cache away. So a key is first looked up in ioredis' table of slots, and the
 * node found there has a breaker of its own. A node without a connection is not asked. ioredis forgets such a node and would find it again by asking any other,
 * once for each command; here the table is read again a second later, which also connects to every node in it, until all are there. After a failover the same
 * reading finds the new master.
 */
import type { Cluster, Redis, RedisOptions } from 'ioredis'
import { Breaker } from '../util/breaker.ts'
import type { Clock } from '../util/clock.ts'
import { backoffMs } from '../util/retry.ts'
import { connectionOptions, type Ioredis, RedisConnection, type Secrets, Sockets } from './redis-connection.ts'
import { type CallLimits, RedisNode } from './redis-node.ts'
import type { Servers } from './redis-target.ts'
import type { RedisAddress } from './redis-url.ts'

const REFRESH_AFTER_MS = 1_000
const SLOTS_TIMEOUT_MS = 1_000
const REDIRECTIONS_MAX = 4

/** `addresses`: at least one, with the same credentials; where to ask for the others. */
export function connectCluster(ioredis: Ioredis, addresses: readonly RedisAddress[], secrets: Secrets, { clock }: CallLimits): Servers {
  const sockets = new Sockets(ioredis, secrets)
  const { db: _, ...redisOptions } = connectionOptions(addresses[0]!, sockets)
  const cluster = new ioredis.Cluster(
    addresses.map(({ host, port }) => ({ host, port })),
    {
      redisOptions,
      enableOfflineQueue: false,
      // It asks a node that is perhaps still connecting, and starts again if that has no answer. A cluster that is down says so to each command.
      enableReadyCheck: false,
      maxRedirections: REDIRECTIONS_MAX,
      retryDelayOnFailover: 0,
      retryDelayOnClusterDown: 0,
      slotsRefreshTimeout: SLOTS_TIMEOUT_MS,
      clusterRetryStrategy: attempt => backoffMs(attempt, clock),
      // As they are announced, so that certificates fit: the socket looks names up.
      dnsLookup: (address, found) => found(null, address),
    },
  )
  return new ClusterServers(cluster, ioredis, addresses.map(({ name }) => name).join(','), sockets, clock)
}

class ClusterServers implements Servers {
  readonly name: string
  readonly commander: Cluster
  readonly #ioredis: Ioredis
  readonly #sockets: Sockets
  readonly #clock: Clock
  readonly #nodes = new Map<string, RedisNode>()
  /** By node, across its connections. */
  readonly #breakers = new Map<string, Breaker>()
  readonly #attempted = Promise.withResolvers<void>()
  #callOffRefresh: (() => void) | undefined
  #lastError: Error | undefined
  #closed = false

  constructor(cluster: Cluster, ioredis: Ioredis, name: string, sockets: Sockets, clock: Clock) {
    this.name = name
    this.commander = cluster
    this.#ioredis = ioredis
    this.#sockets = sockets
    this.#clock = clock
    cluster.on('+node', (redis: Redis) => this.#add(redis))
    cluster.on('-node', (redis: Redis) => this.#remove(redis))
    cluster.on('error', (error: Error) => this.#note(error))
    cluster.on('node error', (error: Error) => this.#note(error))
    for (const event of ['ready', 'close', 'end']) cluster.on(event, () => this.#attempted.resolve())
  }

  get attempted(): Promise<void> {
    return this.#attempted.promise
  }

  nodeOf(key: string): RedisNode | undefined {
    const slot = new this.#ioredis.Command('get', [key]).getSlot()
    const name = this.commander.status === 'ready' ? this.commander.slots[slot]?.[0] : undefined
    return name === undefined ? undefined : this.#nodes.get(name)
  }

  nodes(): readonly RedisNode[] {
    const masters = new Set(this.commander.nodes('master'))
    return [...this.#nodes.values()].filter(({ connection }) => masters.has(connection.redis))
  }

  missing(): readonly string[] {
    const masters = new Set(this.commander.slots.flatMap(names => names?.[0] ?? []))
    if (masters.size === 0) return [this.name]
    return [...masters].filter(name => !this.#nodes.has(name))
  }

  lastError(): Error | undefined {
    return this.#lastError
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#callOffRefresh?.()
    this.commander.disconnect()
    await this.#sockets.destroy()
  }

  #note(error: Error): void {
    this.#lastError = error
  }

  #add(redis: Redis): void {
    const name = nameOf(redis)
    const breaker = this.#breakers.get(name) ?? new Breaker({ clock: this.#clock })
    this.#breakers.set(name, breaker)
    this.#nodes.set(name, new RedisNode(new RedisConnection(redis, name, this.#clock, 'cluster'), breaker))
    // ioredis sends ASKING without looking at what comes of it: on a connection that is lost that would be an unhandled rejection.
    const asking = redis.asking.bind(redis)
    redis.asking = () => asking().catch((): 'OK' => 'OK')
    // It reads the table of slots on copies of this connection.
    const duplicate = redis.duplicate.bind(redis)
    const supervised = (override?: Partial<RedisOptions>): Redis =>
      new RedisConnection(duplicate(override), name, this.#clock, 'cluster').redis
    Object.defineProperty(redis, 'duplicate', { value: supervised })
    // ioredis would connect at the first command and refuse those that come while it connects.
    redis.connect().catch(() => undefined)
  }

  #remove(redis: Redis): void {
    const name = nameOf(redis)
    if (this.#nodes.get(name)?.connection.redis === redis) this.#nodes.delete(name)
    if (this.#breakers.get(name)?.isOpen === false) this.#breakers.delete(name)
    if (!this.#closed) this.#refreshSoon()
  }

  #refreshSoon(): void {
    this.#callOffRefresh ??= this.#clock.after(REFRESH_AFTER_MS * (0.5 + this.#clock.random() / 2), () => {
      this.#callOffRefresh = undefined
      if (this.commander.status === 'ready') this.commander.refreshSlotsCache()
    })
  }
}

/** As in ioredis' table of slots. */
function nameOf({ options }: Redis): string {
  return `${options.host}:${options.port}`
}
