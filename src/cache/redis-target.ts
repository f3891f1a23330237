/**
 * The few things a cache does with Redis, on one server or on a cluster as if it were one: a value under a key, gone after its time to live.
 *
 * Every value is written with a time to live, so that policies which evict only such keys (volatile-lru, volatile-lfu, volatile-ttl) work as well as those that
 * evict any (allkeys-lru, allkeys-lfu), and so that a cache without a memory limit forgets, in time, what nobody reads any more.
 */
import type { RedisCommander } from 'ioredis'
import { clearNode, type NodeReport, reportOf } from './redis-admin.ts'
import { notConnected, replyOf } from './redis-errors.ts'
import { Call, type CallLimits, type RedisNode } from './redis-node.ts'

/** What is connected: a server, or the nodes of a cluster. */
export interface Servers {
  readonly name: string
  readonly commander: RedisCommander
  /** Resolves when the first attempt to connect came to something. */
  readonly attempted: Promise<void>
  /** The node that has a key now, if it is known and connected or being connected to. */
  nodeOf(key: string): RedisNode | undefined
  /** Those that have keys. */
  nodes(): readonly RedisNode[]
  /** Names of those that should be among the nodes and are not. */
  missing(): readonly string[]
  /** What went wrong last with the whole, for those that are missing. */
  lastError(): Error | undefined
  close(): Promise<void>
}

export class RedisTarget {
  readonly #servers: Servers
  readonly #limits: CallLimits
  readonly #ttlSeconds: number

  constructor(servers: Servers, limits: CallLimits, ttlSeconds: number) {
    this.#servers = servers
    this.#limits = limits
    this.#ttlSeconds = ttlSeconds
  }

  get name(): string {
    return this.#servers.name
  }

  /** The value, in memory of its own or a part of what a socket read. */
  async get(key: string, signal: AbortSignal | undefined): Promise<Buffer | undefined> {
    const value = await this.#ask('read a value', key, signal, async () => replyOf(await this.#servers.commander.getBuffer(key), isValue))
    return value ?? undefined
  }

  /**
   * Writes a value. `value` must stay as it is until `onReleased` is called, which is when ioredis has no more use for it: never before this settles, but
   * perhaps a good while after a timeout.
   */
  async set(key: string, value: Buffer, signal: AbortSignal | undefined, onReleased: () => void): Promise<void> {
    let sent: Promise<unknown> = Promise.resolve()
    try {
      await this.#ask('write a value', key, signal, () => {
        const reply = this.#servers.commander.set(key, value, 'EX', this.#ttlSeconds)
        sent = reply
        return reply.then(text => replyOf(text, isOk))
      })
    } finally {
      void sent.then(onReleased, onReleased)
    }
  }

  async unlink(key: string, signal: AbortSignal | undefined): Promise<void> {
    await this.#ask('remove a value', key, signal, () => this.#servers.commander.unlink(key))
  }

  /** Removes every key of thaw's, and resolves to their number. All nodes are cleared that can be; rejects if one cannot. */
  async clear(signal: AbortSignal | undefined): Promise<number> {
    await this.#connecting(signal)
    const counts = await Promise.allSettled(this.#servers.nodes().map(node => clearNode(node, this.#limits, signal)))
    const [missing] = this.#servers.missing()
    if (missing !== undefined) throw notConnected(missing, this.#servers.lastError())
    const failed = counts.find(count => count.status === 'rejected')
    if (failed !== undefined) throw failed.reason
    return counts.reduce((sum, count) => sum + (count.status === 'fulfilled' ? count.value : 0), 0)
  }

  /** What each node says of itself. */
  async report(signal: AbortSignal | undefined): Promise<NodeReport[]> {
    await this.#connecting(signal)
    const missing = this.#servers.missing().map((name): NodeReport => ({ name, down: notConnected(name, this.#servers.lastError()) }))
    return [...(await Promise.all(this.#servers.nodes().map(node => reportOf(node, this.#limits, signal)))), ...missing]
  }

  close(): Promise<void> {
    return this.#servers.close()
  }

  async #ask<T>(what: string, key: string, signal: AbortSignal | undefined, command: () => Promise<T>): Promise<T> {
    using call = new Call(this.name, what, this.#limits, signal)
    const node = this.#servers.nodeOf(key) ?? (await call.race(this.#servers.attempted.then(() => this.#servers.nodeOf(key))))
    if (node === undefined) throw notConnected(this.name, this.#servers.lastError())
    return await node.ask(call, command)
  }

  /** Waits for the first attempt to connect, for as long as a command may take. */
  async #connecting(signal: AbortSignal | undefined): Promise<void> {
    using call = new Call(this.name, 'connect', this.#limits, signal)
    const waited = call.race(this.#servers.attempted)
    await waited.catch((error: unknown) => {
      if (call.isGivenUp) throw error
    })
  }
}

function isValue(reply: unknown): reply is Buffer | null {
  return reply === null || Buffer.isBuffer(reply)
}

function isOk(reply: unknown): reply is 'OK' {
  return reply === 'OK'
}
