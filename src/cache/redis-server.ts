/** One server by itself: the whole of mode `standalone`, one of the nodes of mode `shards`. ioredis connects again for as long as it takes. */
import { Breaker } from '../util/breaker.ts'
import { backoffMs } from '../util/retry.ts'
import { connectionOptions, type Ioredis, RedisConnection, type Secrets, Sockets } from './redis-connection.ts'
import { type CallLimits, RedisNode } from './redis-node.ts'
import type { Servers } from './redis-target.ts'
import type { RedisAddress } from './redis-url.ts'

export function connectServer(ioredis: Ioredis, address: RedisAddress, secrets: Secrets, { clock }: CallLimits): Servers {
  const sockets = new Sockets(ioredis, secrets)
  const redis = new ioredis.Redis({
    ...connectionOptions(address, sockets),
    host: address.host,
    port: address.port,
    // What cannot be sent now fails now.
    enableOfflineQueue: false,
    retryStrategy: attempt => backoffMs(attempt, clock),
  })
  const node = new RedisNode(new RedisConnection(redis, address.name, clock, 'independent'), new Breaker({ clock }))
  return {
    name: address.name,
    commander: redis,
    attempted: node.connection.attempted,
    nodeOf: () => node,
    nodes: () => [node],
    missing: () => [],
    lastError: () => undefined,
    async close() {
      redis.disconnect()
      await sockets.destroy()
    },
  }
}
