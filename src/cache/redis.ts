/**
 * The distributed cache (L2): an existing engine, Redis or Valkey, through ioredis, in one of three modes. `standalone` is one server; `cluster` is a cluster as
 * the engine makes it; `shards` are independent servers among which rendezvous hashing (rendezvous.ts) chooses, and which can keep each value erasure-coded.
 *
 * Nothing here is needed for a read to succeed: what is slow, full, down or answers garbage costs at most `timeoutMs`, and soon nothing (redis-node.ts). Opening
 * does not wait for servers and does not fail because of them. ioredis is loaded when the first such cache is opened.
 */
import { readFile } from 'node:fs/promises'
import type { SealedCache } from '../cache.ts'
import { fromErrno } from '../errors.ts'
import { type Clock, systemClock } from '../util/clock.ts'
import { Lifetime } from '../util/lifetime.ts'
import { Trust } from '../util/trust.ts'
import { RedisCache } from './redis-cache.ts'
import { connectCluster } from './redis-cluster.ts'
import type { Secrets } from './redis-connection.ts'
import { type RedisLayout, wholeLayout } from './redis-layout.ts'
import type { CallLimits } from './redis-node.ts'
import { connectServer } from './redis-server.ts'
import { stripedLayout } from './redis-striped.ts'
import { RedisTarget } from './redis-target.ts'
import { parseRedisUrl, type RedisAddress } from './redis-url.ts'
import { rendezvous } from './rendezvous.ts'
import { STRIPES } from './stripes.ts'

export type RedisMode = 'standalone' | 'cluster' | 'shards'

export interface RedisCacheOptions {
  /** Default `standalone`. */
  readonly mode?: RedisMode | undefined
  /** `redis://[user:password@]host:port[/db]`, or `rediss://` for TLS. One in mode `standalone`; of a cluster any nodes; of shards all. */
  readonly urls: readonly string[]
  /** In place of one in the URLs. */
  readonly password?: string | undefined
  /** A file that holds the password, in place of `password`; a line end after it is not part of it. Read again for each connection. */
  readonly passwordFile?: string | undefined
  /** A PEM file with the CA that signed the servers' certificates. Otherwise Node's own and the system's are trusted. Looked at again for each connection. */
  readonly caFile?: string | undefined
  /** Mode `shards` with at least five nodes: four data stripes and one parity on five nodes, of which any four are enough. */
  readonly erasure?: boolean | undefined
  /** How long a value is kept after it was written; default 7 days. */
  readonly ttlSeconds?: number | undefined
  /** Of one command; default 250. */
  readonly timeoutMs?: number | undefined
  readonly clock?: Clock | undefined
}

/** Long enough for what runs once a week, short enough that what was replaced does not stay for ever where nothing else evicts. */
const TTL_SECONDS_DEFAULT = 7 * 24 * 3600
/** An L2 hit takes a millisecond; the store would have answered by then. */
const TIMEOUT_MS_DEFAULT = 250

/**
 * Opens a cache and begins to connect. TypeError or RangeError for options that cannot be, without any password in them; a ThawError if a file cannot be read.
 */
export async function openRedisCache(options: RedisCacheOptions): Promise<SealedCache> {
  const { mode = 'standalone', erasure = false, clock = systemClock } = options
  const ttlSeconds = positive('ttlSeconds', options.ttlSeconds ?? TTL_SECONDS_DEFAULT)
  const timeoutMs = positive('timeoutMs', options.timeoutMs ?? TIMEOUT_MS_DEFAULT)
  const addresses = addressesOf(options, mode, erasure)
  const password = await passwordOf(options)
  const secrets: Secrets = {
    trust: new Trust({ onlyFile: options.caFile }),
    // A file that cannot be read any more: what it said last.
    password: () => passwordOf(options).catch(() => undefined),
  }
  // What cannot be read is said now, and not at each connection.
  if (options.caFile !== undefined || addresses.some(({ tls }) => tls)) await secrets.trust.context()
  const nodes = password === undefined ? addresses : addresses.map(address => ({ ...address, password }))
  const ioredis = await import('ioredis')

  const life = new Lifetime(`L2 cache ${addresses.map(({ name }) => name).join(',')}`)
  const limits: CallLimits = { clock, timeoutMs, closing: life.signal }
  const targetOf = (servers: ReturnType<typeof connectServer>): RedisTarget => new RedisTarget(servers, limits, ttlSeconds)
  if (mode === 'cluster') return new RedisCache(single(targetOf(connectCluster(ioredis, nodes, secrets, limits))), life)
  const targets = nodes.map(address => targetOf(connectServer(ioredis, address, secrets, limits)))
  return new RedisCache(mode === 'shards' ? await sharded(targets, erasure) : single(targets[0]!), life)
}

function single(target: RedisTarget): RedisLayout {
  return wholeLayout([target], () => target)
}

async function sharded(targets: readonly RedisTarget[], erasure: boolean): Promise<RedisLayout> {
  const nodes = await rendezvous(targets)
  return erasure ? stripedLayout(targets, nodes) : wholeLayout(targets, id => nodes.nodesOf(id, 1)[0]!)
}

function addressesOf({ urls }: RedisCacheOptions, mode: RedisMode, erasure: boolean): RedisAddress[] {
  const addresses = urls.map(parseRedisUrl)
  const wrong = wrongWith(addresses, mode, erasure)
  if (wrong !== undefined) throw new TypeError(wrong)
  return addresses
}

function wrongWith(addresses: readonly RedisAddress[], mode: RedisMode, erasure: boolean): string | undefined {
  if (!['standalone', 'cluster', 'shards'].includes(mode)) return `no such L2 mode: ${mode} (known: standalone, cluster, shards)`
  if (addresses.length === 0) return 'an L2 cache needs a URL'
  if (mode === 'standalone' && addresses.length > 1) return 'L2 mode standalone has one URL: for more nodes use cluster or shards'
  if (erasure && mode !== 'shards') return 'erasure coding of the L2 cache needs mode shards'
  if (erasure && addresses.length < STRIPES) return `erasure coding of the L2 cache needs at least ${STRIPES} nodes`
  const twice = addresses.find(({ name }, index) => addresses.findIndex(other => other.name === name) < index)
  if (twice !== undefined) return `L2 node ${twice.name} is named twice`
  if (mode === 'cluster') return wrongWithCluster(addresses)
  return undefined
}

function wrongWithCluster(addresses: readonly RedisAddress[]): string | undefined {
  const [first] = addresses
  if (addresses.some(({ db }) => db !== 0)) return 'an L2 cluster has database 0 only'
  const same = (['tls', 'username', 'password'] as const).every(key => addresses.every(address => address[key] === first?.[key]))
  return same ? undefined : 'the URLs of an L2 cluster must agree in TLS, user and password'
}

async function passwordOf({ password, passwordFile }: RedisCacheOptions): Promise<string | undefined> {
  if (passwordFile === undefined) return password
  if (password !== undefined) throw new TypeError('the L2 password comes from a file or is given, not both')
  return (await readText(passwordFile, 'cannot read the password of the L2 cache')).replace(/\r?\n$/, '')
}

async function readText(path: string, what: string): Promise<string> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    throw fromErrno(error, what, path)
  }
}

function positive(name: string, value: number): number {
  if (!Number.isSafeInteger(value) || value <= 0) throw new RangeError(`${name} must be a whole number greater than 0`)
  return value
}
