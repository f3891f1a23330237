/**
 * The ranges of an image in order, each already looked at by a worker thread, several under way at once.
 */
import { CHUNK_PAGES, RANGE_BYTES } from '../chunk.ts'
import { isThawError, ThawError } from '../errors.ts'
import { DIGEST_BYTES, type ManifestImage, RANGE_STATE } from '../manifest.ts'
import type { SealPool } from '../seal/pool.ts'
import type { ChangesResult, ScanResult } from '../seal/tasks.ts'
import type { Slot } from '../util/slab.ts'
import type { SourceRange, WholeSource } from './source.ts'

/** Ranges read ahead of the one in turn. With 2 cores 8 keep both busy; a slot each. */
export const RANGES_AHEAD = 16

export interface ScannedRange {
  /** Index of the range in its image. */
  readonly range: number
  /** Of the range; of all of them if several are `untouched`. */
  readonly sizeBytes: number
  /** `untouched`: this range, and those behind it within `sizeBytes`, are the parent's. */
  readonly result: ScanResult | ChangesResult | { readonly state: 'untouched' }
  /** Holds what `result` says; released by the receiver. Undefined if that says nothing about bytes. */
  readonly slot: Slot | undefined
}

export interface ScanOptions {
  /** The image's name, for errors. */
  readonly name: string
  readonly lineageKey: Uint8Array
  /** The parent's image of that name, whose range digests tell what did not change. Without one ranges are sealed. */
  readonly parent: ManifestImage | undefined
  /** Called as soon as a range is known to differ, long before its turn, with what its pages are. */
  readonly onDiffers: (range: number, marks: Uint8Array) => void
  readonly signal: AbortSignal
}

/** The ranges of an image of which all bytes are at hand. */
export function scanRanges(source: WholeSource, pool: SealPool, options: ScanOptions): AsyncGenerator<ScannedRange> {
  let range = 0
  return readAhead(options.signal, async () => {
    const slot = await pool.acquire()
    const found = await next(source, slot)
    return found && { scanned: scanRange(range++, found, slot, pool, options) }
  })
}

/**
 * Begins ranges, several at once, and gives them out in the order in which they were begun. On an error what was under way is waited for and its slots are released: nobody writes to
 * them later.
 * @param begin undefined at the end.
 */
export async function* readAhead(
  signal: AbortSignal,
  begin: () => Promise<{ readonly scanned: Promise<ScannedRange> } | undefined>,
): AsyncGenerator<ScannedRange> {
  const ahead: Promise<ScannedRange>[] = []
  try {
    for (;;) {
      signal.throwIfAborted()
      const begun = await begin()
      if (begun === undefined) break
      // Whoever takes it from the list sees its error; until then it is nobody's.
      begun.scanned.catch(() => undefined)
      ahead.push(begun.scanned)
      if (ahead.length >= RANGES_AHEAD) yield await ahead.shift()!
    }
    while (ahead.length > 0) yield await ahead.shift()!
  } finally {
    for (const left of await Promise.allSettled(ahead)) if (left.status === 'fulfilled') left.value.slot?.release()
  }
}

async function next(source: WholeSource, slot: Slot): Promise<SourceRange | undefined> {
  let found: SourceRange | undefined
  try {
    found = await source.next(slot)
    return found
  } finally {
    if (found === undefined) slot.release()
  }
}

function scanRange(
  range: number,
  { sizeBytes, file, hole }: SourceRange,
  slot: Slot,
  pool: SealPool,
  options: ScanOptions,
): Promise<ScannedRange> {
  const { lineageKey, parent } = options
  const layout = parent === undefined ? 'position' : 'compare'
  return inSlot(slot, { range, sizeBytes }, options, async () => {
    if (hole) return { state: 'zero' }
    const digest = parent && knownDigest(parent, range, sizeBytes)
    return await pool.run(slot, { kind: 'scan', file, sizeBytes, lineageKey, layout, digest })
  })
}

/** Has a range looked at; the slot goes with the result if that is about its bytes. */
export async function inSlot(
  slot: Slot,
  { range, sizeBytes }: Pick<ScannedRange, 'range' | 'sizeBytes'>,
  { name, onDiffers }: Pick<ScanOptions, 'name' | 'onDiffers'>,
  look: () => Promise<ScannedRange['result']>,
): Promise<ScannedRange> {
  let keep = false
  try {
    const result = await look()
    keep = result.state === 'differs' || result.state === 'sealed' || result.state === 'changed'
    if (result.state === 'differs' || result.state === 'changed') onDiffers(range, result.marks)
    return { range, sizeBytes, result, slot: keep ? slot : undefined }
  } catch (cause) {
    if (!isThawError(cause)) throw cause
    throw new ThawError(cause.code, `image ${name}: ${cause.message}`, { cause, object: name })
  } finally {
    if (!keep) slot.release()
  }
}

/** The parent's digest of a range, if it has one and the range is as long there. */
export function knownDigest(parent: ManifestImage, range: number, sizeBytes: number): Uint8Array | undefined {
  const { states, digests } = parent.digests
  if (states[range] !== RANGE_STATE.known) return undefined
  const parentBytes = Math.min(RANGE_BYTES, parent.sizeBytes - range * RANGE_BYTES)
  return parentBytes === sizeBytes ? digests.slice(range * DIGEST_BYTES, (range + 1) * DIGEST_BYTES) : undefined
}

/** First page of a range in its image. */
export function firstPage(range: number): number {
  return range * CHUNK_PAGES
}
