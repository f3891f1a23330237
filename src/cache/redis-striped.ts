/**
 * Values in five stripes (stripes.ts) on the five nodes that rendezvous hashing gives for an id. All five are asked at once and the first four that come in
 * are enough: a node that is down, slow or hung costs neither a hit nor time (Rashmi et al., "EC-Cache", OSDI 2016; Brooker et al., "On-demand container loading
 * in AWS Lambda", USENIX ATC 2023, section 4.2).
 *
 * A node holds at most one stripe of a value, under a key that does not say which: the stripe says it. So a node that is added among an id's five puts only the
 * last of them out, and the other four still lie where they are looked for.
 */
import { ThawError } from '../errors.ts'
import { KEY_PREFIX } from './redis-admin.ts'
import type { Found, RedisLayout } from './redis-layout.ts'
import type { RedisTarget } from './redis-target.ts'
import type { Rendezvous } from './rendezvous.ts'
import { join, parseStripe, STRIPES, STRIPES_NEEDED, type Stripe, split } from './stripes.ts'

/** Stripes that may be wanting. */
const SPARE = STRIPES - STRIPES_NEEDED

export function stripedLayout(targets: readonly RedisTarget[], nodes: Rendezvous<RedisTarget>): RedisLayout {
  const keyOf = (id: string): string => `${KEY_PREFIX}${id}:stripe`
  const targetsOf = (id: string): RedisTarget[] => nodes.nodesOf(id, STRIPES)

  const evict = async (id: string, signal: AbortSignal | undefined): Promise<void> => {
    const removed = await Promise.allSettled(targetsOf(id).map(target => target.unlink(keyOf(id), signal)))
    const failed = removed.filter(({ status }) => status === 'rejected')
    // With one stripe more gone than can be spared the value is gone, whatever is left of it elsewhere.
    if (STRIPES - failed.length <= SPARE) throw (failed[0] as PromiseRejectedResult).reason
    signal?.throwIfAborted()
  }

  return {
    targets,
    keysPerValue: STRIPES,
    nodesToSpare: SPARE,
    evict,
    async get(id, signal) {
      const stripes = await firstStripes(targetsOf(id).map(target => target.get(keyOf(id), signal)))
      if (stripes === 'contradictory') await evict(id, signal).catch(onlyAbort(signal))
      return stripes === undefined || stripes === 'contradictory' ? undefined : foundIn(stripes)
    },
    async put(id, value, signal, onReleased) {
      const stripes = split(value)
      const release = afterAll(STRIPES, onReleased)
      const writes = targetsOf(id).map((target, index) => target.set(keyOf(id), stripes[index]!, signal, release))
      await enough(writes)
      return true
    },
  }
}

function foundIn(stripes: readonly Stripe[]): Found {
  return { sizeBytes: stripes[0]!.totalBytes, copyTo: target => join(stripes, target) }
}

/**
 * The first four stripes that come in. undefined: so many are not there that the value is not. Rejects when too many cannot be read to tell. What the others
 * come to afterwards is ignored.
 */
function firstStripes(reads: readonly Promise<Buffer | undefined>[]): Promise<readonly Stripe[] | 'contradictory' | undefined> {
  return new Promise((resolve, reject) => {
    const found = new Map<number, Stripe>()
    let absent = 0
    let left = reads.length
    let failure: unknown
    const take = (bytes: Buffer | undefined): void => {
      const stripe = bytes === undefined ? undefined : parseStripe(bytes)
      // A second stripe of one index, left from before nodes were added, is as good as none; so is what is no stripe.
      if (stripe === undefined || found.has(stripe.index)) absent++
      else found.set(stripe.index, stripe)
      if (found.size === STRIPES_NEEDED) resolve(agreeing([...found.values()]))
      if (absent > SPARE) resolve(undefined)
    }
    const fail = (error: unknown): void => {
      failure ??= error
    }
    for (const read of reads) {
      void read.then(take, fail).finally(() => {
        // With all in and nothing decided there are too few, and at least one might have been there.
        if (--left === 0) reject(failure)
      })
    }
  })
}

function agreeing(stripes: readonly Stripe[]): readonly Stripe[] | 'contradictory' {
  return stripes.every(({ totalBytes }) => totalBytes === stripes[0]!.totalBytes) ? stripes : 'contradictory'
}

/** Resolves when four of five have, rejects when that has become impossible. */
async function enough(writes: readonly Promise<void>[]): Promise<void> {
  const failures: unknown[] = []
  await new Promise<void>((resolve, reject) => {
    let kept = 0
    const onKept = (): void => {
      if (++kept === STRIPES_NEEDED) resolve()
    }
    const onFailed = (error: unknown): void => {
      failures.push(error)
      if (failures.length > SPARE) reject(failures[0])
    }
    for (const write of writes) write.then(onKept, onFailed)
  })
}

/** A function that calls `call` when it was called for the `times`-th time. */
function afterAll(times: number, call: () => void): () => void {
  let left = times
  return () => {
    if (--left === 0) call()
  }
}

/** Lets an error pass only if it is the caller's abort. */
function onlyAbort(signal: AbortSignal | undefined): (error: unknown) => void {
  return (error: unknown) => {
    if (signal?.aborted || !(error instanceof ThawError)) throw error
  }
}
