/**
 * A reading thread for the stress test: wants chunks at random, holds on to the last one for a while, and in between pins and unpins those it wanted lately as fast as it can,
 * looking each time whether the bytes are those of the chunk.
 */
import { parentPort, workerData } from 'node:worker_threads'
import { ABSENT, Arena, type ArenaMemory } from '../../src/arena.ts'
import { PAGE_BYTES } from '../../src/chunk.ts'
import type { LineEnd } from '../../src/engine/line.ts'
import { LineClient } from '../../src/engine/line-client.ts'
import { type ImageColumns, ImageReader } from '../../src/reader.ts'

export interface StressOptions {
  readonly arena: ArenaMemory
  readonly end: LineEnd
  readonly handle: number
  readonly image: ImageColumns
  readonly pages: number
  readonly wants: number
  readonly seed: number
}

export interface StressResult {
  /** Wants that were answered with a pin. */
  readonly good: number
  /** Looks at bytes of another chunk, or of none. */
  readonly wrong: number
  readonly hits: number
  readonly hitBytes: number
}

/** Looks at chunks wanted lately, a want; and how many of those there are. */
const LOOKS = 1500
const LATELY = 8

const { arena: memory, end, handle, image, pages, wants, seed } = workerData as StressOptions
const arena = new Arena(memory)
const reader = new ImageReader(image, arena)
const line = new LineClient(end)
const chunks = image.numbers.length
const lately = new Int32Array(LATELY)
/** By the number of the request. */
const wanted = new Map<number, number>()
const page = new Uint32Array(PAGE_BYTES / 4)
const pageBytes = Buffer.from(page.buffer)
const words = memory.segments.map(segment => new Uint32Array(segment))
let [good, wrong, hits, hitBytes, state, held, heldChunk] = [0, 0, 0, 0, seed, ABSENT, 0]

/** xorshift32 (Marsaglia, "Xorshift RNGs", 2003). */
function random(below: number): number {
  state ^= state << 13
  state ^= state >>> 17
  state ^= state << 5
  return (state >>> 0) % below
}

/** Whether a page of a pinned slot is that page of the chunk, by its first and its last word. */
function fits(slot: number, chunk: number, page: number): boolean {
  const at = (arena.offsetOf(slot) + page * PAGE_BYTES) / 4
  const of = words[arena.segmentOf(slot)]!
  return of[at] === chunk && of[at + 1] === page && of[at + PAGE_BYTES / 4 - 2] === chunk && of[at + PAGE_BYTES / 4 - 1] === page
}

function fitsWhole(slot: number, chunk: number): boolean {
  for (let page = 0; page < pages; page++) if (!fits(slot, chunk, page)) return false
  return true
}

function look(): void {
  const chunk = lately[random(LATELY)]!
  const at = random(pages)
  if (random(16) === 0) {
    const bytes = reader.tryReadInto(pageBytes, (chunk * pages + at) * PAGE_BYTES)
    if (bytes === 0) return
    hits++
    hitBytes += bytes
    line.countHits(1, bytes)
    for (let word = 0; word < page.length; word += 2) if (page[word] !== chunk || page[word + 1] !== at) wrong++
    return
  }
  const slot = arena.pin(image.numbers[chunk]!)
  if (slot === ABSENT) return
  if (!fits(slot, chunk, at)) wrong++
  arena.unpin(slot)
}

/** Exchanges the chunk that is held for another. */
function hold(slot: number, chunk: number): void {
  if (held !== ABSENT) {
    if (!fitsWhole(held, heldChunk)) wrong++
    arena.unpin(held)
  }
  held = slot
  heldChunk = chunk
}

let asked = 0
while (good < wants) {
  while (asked < wants && line.outstanding < 2) {
    const chunk = random(chunks)
    wanted.set(line.want(handle, chunk, random(4) === 0 ? 'prefetch' : 'demand'), chunk)
    asked++
  }
  for (let count = 0; count < LOOKS; count++) look()
  for (let done = line.next(); done !== undefined; done = line.next()) {
    const { request, slot, code } = done
    const chunk = wanted.get(request)!
    wanted.delete(request)
    if (slot === ABSENT) throw new Error(`a want failed: ${code}`)
    if (!fitsWhole(slot, chunk)) wrong++
    good++
    lately[random(LATELY)] = chunk
    if (random(3) === 0) hold(slot, chunk)
    else arena.unpin(slot)
  }
}
hold(ABSENT, 0)
line.close()
parentPort!.postMessage({ good, wrong, hits, hitBytes } satisfies StressResult)
