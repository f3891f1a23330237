/**
 * Handles against a model: snapshots that share some of their chunks are held, lent, wanted of and released in any order, and stores close around them. A want gives its own
 * snapshot's chunk, or CLOSED if its handle was released or its store closed; nothing stays pinned.
 *
 * A table of chunks that nobody wants takes up almost all numbers there are, so that those that are given back soon mean other chunks.
 */
import { randomFillSync } from 'node:crypto'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { ChunkColumns } from '../../src/engine/chunk-table.ts'
import { RemoteEngine, startThread } from '../../src/engine/remote.ts'
import { startEngine } from '../../src/engine/start.ts'
import type { Engine, EngineStore, HeldSnapshot } from '../../src/engine.ts'
import { isThawError } from '../../src/errors.ts'
import { type MarkedStore, markedPages, markedStore, ROOT } from './marked-store.ts'

const CHUNKS = 40
const PAGES = 1
/** Of 1,024 numbers that are made at a time. */
const FILLERS = 1000
const OWNER = { tenant: 'acme', restore: 'r1' }

type Step =
  | { readonly do: 'hold'; readonly chunks: readonly number[] }
  | { readonly do: 'lend'; readonly at: number }
  | { readonly do: 'release'; readonly at: number }
  | { readonly do: 'want'; readonly at: number; readonly index: number }
  | { readonly do: 'turn' | 'reopen' }

const at = fc.nat(20)
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({ do: fc.constant('hold' as const), chunks: fc.uniqueArray(fc.nat(CHUNKS - 1), { minLength: 1, maxLength: 12 }) }),
  },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('lend' as const), at }) },
  { weight: 8, arbitrary: fc.record({ do: fc.constant('want' as const), at, index: fc.nat(11) }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('release' as const), at }) },
  { weight: 4, arbitrary: fc.constant({ do: 'turn' as const }) },
  { weight: 1, arbitrary: fc.constant({ do: 'reopen' as const }) },
)

let marked: MarkedStore
let engine: Engine

/** A snapshot of some of the store's chunks. */
function columnsOf(chunks: readonly number[]): ChunkColumns {
  const { segments, ids, keys, sealedBytes, pages } = marked.columns
  const rows = (column: Uint8Array): Uint8Array => Buffer.concat(chunks.map(chunk => column.subarray(32 * chunk, 32 * chunk + 32)))
  return {
    segments: [{ ...segments[0]!, count: chunks.length }],
    ids: rows(ids),
    keys: rows(keys),
    sealedBytes: Uint32Array.from(chunks, chunk => sealedBytes[chunk]!),
    pages: Uint8Array.from(chunks, chunk => pages[chunk]!),
  }
}

interface Handle {
  readonly held: HeldSnapshot
  readonly chunks: readonly number[]
  isClosed: boolean
}

class Run {
  readonly #handles: Handle[] = []
  readonly #wants: Promise<void>[] = []
  #store: EngineStore | undefined

  async take(next: Step): Promise<void> {
    if (next.do === 'turn') await new Promise(setImmediate)
    else if (next.do === 'hold') await this.#hold(next.chunks)
    else if (!('at' in next)) await this.#close()
    else {
      const handle = this.#handles[next.at % this.#handles.length]
      if (handle === undefined) return
      if (next.do === 'lend') await this.#lend(handle)
      else if (next.do === 'release') this.#release(handle)
      else this.#wants.push(this.#want(handle, next.index % handle.chunks.length))
    }
  }

  async end(): Promise<void> {
    for (const handle of this.#handles) this.#release(handle)
    await Promise.all(this.#wants)
    await this.#close()
    await expect.poll(() => new Int32Array(engine.arena.memory.pins).filter(pins => pins !== 0)).toHaveLength(0)
  }

  async #hold(chunks: readonly number[]): Promise<void> {
    this.#store ??= await engine.openStore(marked.objects)
    this.#handles.push({ held: await this.#store.hold(columnsOf(chunks), ROOT), chunks, isClosed: false })
  }

  async #lend({ held, chunks, isClosed }: Handle): Promise<void> {
    const lent = await held.lend(OWNER).catch(closedOnly)
    expect(lent === undefined).toBe(isClosed)
    if (lent !== undefined) this.#handles.push({ held: lent, chunks, isClosed: false })
  }

  async #want(handle: Handle, index: number): Promise<void> {
    const wasClosed = handle.isClosed
    const pinned = await handle.held.want(index).catch(closedOnly)
    if (pinned === undefined) {
      expect(handle.isClosed).toBe(true)
      return
    }
    expect(wasClosed).toBe(false)
    expect(engine.arena.pages(pinned.slot, 0, PAGES).equals(markedPages(handle.chunks[index]!, PAGES))).toBe(true)
    engine.arena.unpin(pinned.slot)
  }

  #release(handle: Handle): void {
    handle.isClosed = true
    handle.held.release()
  }

  async #close(): Promise<void> {
    for (const handle of this.#handles) handle.isClosed = true
    await this.#store?.close()
    this.#store = undefined
  }
}

function closedOnly(error: unknown): undefined {
  if (!isThawError(error, 'CLOSED')) throw error
}

describe.each([
  { name: 'on main', start: (): Promise<Engine> => startEngine({ memoryBytes: 0 }) },
  { name: 'on a worker', start: (): Promise<Engine> => RemoteEngine.over(startThread({ memoryBytes: 0 })) },
])('handles of an engine $name', ({ start }) => {
  beforeAll(async () => {
    marked = await markedStore(CHUNKS, PAGES)
    engine = await start()
    const random = (): Uint8Array => randomFillSync(new Uint8Array(32 * FILLERS))
    const segments = [{ ...marked.columns.segments[0]!, count: FILLERS }]
    const fillers = {
      segments,
      ids: random(),
      keys: random(),
      sealedBytes: new Uint32Array(FILLERS),
      pages: new Uint8Array(FILLERS).fill(1),
    }
    await (await engine.openStore(marked.objects)).hold(fillers, ROOT)
  })
  afterAll(async () => {
    await engine.close()
    await marked[Symbol.asyncDispose]()
  })

  it('give their own snapshot’s chunks, or CLOSED', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 60 }), async steps => {
        const run = new Run()
        for (const next of steps) await run.take(next)
        await run.end()
      }),
      { numRuns: 60, interruptAfterTimeLimit: 10_000, markInterruptAsFailure: false },
    )
  })
})
