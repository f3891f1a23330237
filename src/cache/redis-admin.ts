/** Looking after one node: what it says of its memory, and removing all that is thaw's from it. Asked directly, past the breaker, because a person asks. */
import type { Redis } from 'ioredis'
import { isThawError, type ThawError } from '../errors.ts'
import { asThawError, notConnected, replyOf } from './redis-errors.ts'
import { Call, type CallLimits, type RedisNode } from './redis-node.ts'

/** Before every key. */
export const KEY_PREFIX = 'thaw:'

const SCAN_COUNT = 500

export interface NodeReport {
  readonly name: string
  /** Why it does not serve; undefined: it does, and there are figures. */
  readonly down?: ThawError
  readonly figures?: NodeFigures
}

export interface NodeFigures {
  /** Keys in its database, not thaw's alone. */
  readonly keys: number
  readonly usedBytes: number
  /** 0: no limit. */
  readonly maxBytes: number
  readonly policy: string
}

/** Never rejects but with the reason of an abort. */
export async function reportOf(node: RedisNode, limits: CallLimits, signal: AbortSignal | undefined): Promise<NodeReport> {
  const { name } = node
  try {
    const redis = await connected(node, limits, signal)
    const figures = await ask(node, 'describe itself', limits, signal, async () => {
      const [memory, keys] = await Promise.all([redis.info('memory'), redis.dbsize()])
      return { keys: replyOf(keys, isCount), ...memoryFigures(replyOf(memory, isText)) }
    })
    return { name, figures }
  } catch (error) {
    if (!isThawError(error) || limits.closing.aborted || signal?.aborted) throw error
    return { name, down: error }
  }
}

/** Removes what is thaw's, a key at a time, because the keys of a cluster's node do not share a slot. Resolves to how many there were. */
export async function clearNode(node: RedisNode, limits: CallLimits, signal: AbortSignal | undefined): Promise<number> {
  const redis = await connected(node, limits, signal)
  let cursor = '0'
  let removed = 0
  do {
    const scan = (): Promise<unknown> => redis.scan(cursor, 'MATCH', `${KEY_PREFIX}*`, 'COUNT', SCAN_COUNT)
    const [next, keys] = await ask(node, 'list its keys', limits, signal, async () => replyOf(await scan(), isScan))
    const unlink = async (key: string): Promise<number> => replyOf(await redis.unlink(key), isCount)
    const counts = await ask(node, 'remove its keys', limits, signal, () => Promise.all(keys.map(unlink)))
    removed += counts.reduce((sum, count) => sum + count, 0)
    cursor = next
  } while (cursor !== '0')
  return removed
}

async function connected(node: RedisNode, limits: CallLimits, signal: AbortSignal | undefined): Promise<Redis> {
  const { name, connection } = node
  if (!connection.isReady) await ask(node, 'connect', limits, signal, () => connection.attempted)
  if (!connection.isReady) throw notConnected(name, connection.lastError)
  return connection.redis
}

async function ask<T>(
  { name }: RedisNode,
  what: string,
  limits: CallLimits,
  signal: AbortSignal | undefined,
  command: () => Promise<T>,
): Promise<T> {
  using call = new Call(name, what, limits, signal)
  try {
    return await call.race(command())
  } catch (error) {
    throw call.isGivenUp ? error : asThawError(error, `L2 node ${name} could not ${what}`)
  }
}

function memoryFigures(text: string): Pick<NodeFigures, 'usedBytes' | 'maxBytes' | 'policy'> {
  const lines = new Map(text.split('\r\n').map(line => line.split(':', 2) as [string, string | undefined]))
  return {
    usedBytes: Number(lines.get('used_memory') ?? 0),
    maxBytes: Number(lines.get('maxmemory') ?? 0),
    policy: lines.get('maxmemory_policy') ?? 'unknown',
  }
}

function isText(reply: unknown): reply is string {
  return typeof reply === 'string'
}

function isCount(reply: unknown): reply is number {
  return Number.isSafeInteger(reply) && Number(reply) >= 0
}

function isScan(reply: unknown): reply is [string, string[]] {
  return Array.isArray(reply) && isText(reply[0]) && Array.isArray(reply[1]) && reply[1].every(isText)
}
