/** Looking after one node: what it says of its memory, and removing all that is thaw's from it. Asked directly, past the breaker, because a person asks. */
import { isThawError, type ThawError } from '../errors.ts'
import { asThawError, notConnected } from './redis-errors.ts'
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
  const { name, connection } = node
  try {
    if (!connection.isReady) await ask(node, 'connect', limits, signal, () => connection.attempted)
    if (!connection.isReady) return { name, down: notConnected(name, connection.lastError) }
    const { redis } = connection
    const [memory, keys] = await ask(node, 'describe itself', limits, signal, () => Promise.all([redis.info('memory'), redis.dbsize()]))
    return { name, figures: { keys, ...memoryFigures(memory) } }
  } catch (error) {
    if (!isThawError(error) || limits.closing.aborted || signal?.aborted) throw error
    return { name, down: error }
  }
}

/** Removes what is thaw's, a key at a time, because the keys of a cluster's node do not share a slot. Resolves to how many there were. */
export async function clearNode(node: RedisNode, limits: CallLimits, signal: AbortSignal | undefined): Promise<number> {
  const { redis } = node.connection
  let cursor = '0'
  let removed = 0
  do {
    const scan = (): Promise<[string, string[]]> => redis.scan(cursor, 'MATCH', `${KEY_PREFIX}*`, 'COUNT', SCAN_COUNT)
    const [next, keys] = await ask(node, 'list its keys', limits, signal, scan)
    const counts = await ask(node, 'remove its keys', limits, signal, () => Promise.all(keys.map(key => redis.unlink(key))))
    removed += counts.reduce((sum, count) => sum + count, 0)
    cursor = next
  } while (cursor !== '0')
  return removed
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
