/**
 * The ranges of an image in order, each already looked at by a worker thread, several under way at once.
 */
import { CHUNK_PAGES, RANGE_BYTES } from '../chunk.ts'
import { isThawError, ThawError } from '../errors.ts'
import { DIGEST_BYTES, type ManifestImage, RANGE_STATE } from '../manifest.ts'
import type { SealPool } from '../seal/pool.ts'
import type { ScanResult, ScanTask } from '../seal/tasks.ts'
import type { Slot } from '../util/slab.ts'
import type { Source, SourceRange } from './source.ts'

/** Ranges read ahead of the one in turn. With 2 cores 8 keep both busy; a slot each. */
export const RANGES_AHEAD = 16

export interface ScannedRange {
  /** Index of the range in its image. */
  readonly range: number
  readonly sizeBytes: number
  readonly result: ScanResult
  /** Holds what `result` says; released by the receiver. Undefined for `zero` and `same`. */
  readonly slot: Slot | undefined
}

export interface ScanOptions {
  /** The image's name, for errors. */
  readonly name: string
  readonly layout: ScanTask['layout']
  readonly lineageKey: Uint8Array
  /** The parent's image of that name, whose range digests tell what did not change. */
  readonly parent: ManifestImage | undefined
  /** Called as soon as a range is known to differ, long before its turn. */
  readonly onDiffers: (range: number) => void
  readonly signal: AbortSignal
}

/** On an error what was under way is waited for and its slots are released: nobody writes to them later. */
export async function* scanRanges(source: Source, pool: SealPool, options: ScanOptions): AsyncGenerator<ScannedRange> {
  const ahead: Promise<ScannedRange>[] = []
  try {
    for (let range = 0; ; range++) {
      options.signal.throwIfAborted()
      const slot = await pool.acquire()
      const found = await next(source, slot)
      if (found === undefined) break
      const scanned = scanRange(range, found, slot, pool, options)
      // Whoever takes it from the list sees its error; until then it is nobody's.
      scanned.catch(() => undefined)
      ahead.push(scanned)
      if (ahead.length >= RANGES_AHEAD) yield await ahead.shift()!
    }
    while (ahead.length > 0) yield await ahead.shift()!
  } finally {
    for (const left of await Promise.allSettled(ahead)) if (left.status === 'fulfilled') left.value.slot?.release()
  }
}

async function next(source: Source, slot: Slot): Promise<SourceRange | undefined> {
  let found: SourceRange | undefined
  try {
    found = await source.next(slot)
    return found
  } finally {
    if (found === undefined) slot.release()
  }
}

async function scanRange(
  range: number,
  { sizeBytes, file, hole }: SourceRange,
  slot: Slot,
  pool: SealPool,
  options: ScanOptions,
): Promise<ScannedRange> {
  let keep = false
  try {
    const { layout, lineageKey, parent } = options
    const digest = parent && knownDigest(parent, range, sizeBytes)
    const result: ScanResult = hole
      ? { state: 'zero' }
      : await pool.run(slot, { kind: 'scan', file, sizeBytes, lineageKey, layout, digest })
    keep = result.state === 'differs' || result.state === 'sealed'
    if (result.state === 'differs') options.onDiffers(range)
    return { range, sizeBytes, result, slot: keep ? slot : undefined }
  } catch (cause) {
    if (!isThawError(cause)) throw cause
    throw new ThawError(cause.code, `image ${options.name}: ${cause.message}`, { cause, object: options.name })
  } finally {
    if (!keep) slot.release()
  }
}

/** The parent's digest of a range, if it has one and the range is as long there. */
function knownDigest(parent: ManifestImage, range: number, sizeBytes: number): Uint8Array | undefined {
  const { states, digests } = parent.digests
  if (states[range] !== RANGE_STATE.known) return undefined
  const parentBytes = Math.min(RANGE_BYTES, parent.sizeBytes - range * RANGE_BYTES)
  return parentBytes === sizeBytes ? digests.slice(range * DIGEST_BYTES, (range + 1) * DIGEST_BYTES) : undefined
}

/** First page of a range in its image. */
export function firstPage(range: number): number {
  return range * CHUNK_PAGES
}
