/** Chunks that are opened by the threads beside the engine's, which may die of it. */
import type { Worker } from 'node:worker_threads'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { Arena } from '../../src/arena.ts'
import { Fills } from '../../src/cache/fills.ts'
import { Origin, OriginCounters } from '../../src/cache/origin.ts'
import { SealedSource } from '../../src/cache/tiered.ts'
import { OpenedChunks } from '../../src/engine/opened-chunks.ts'
import { Opening } from '../../src/engine/opening.ts'
import { SEALED_BYTES_MAX } from '../../src/seal.ts'
import { systemClock } from '../../src/util/clock.ts'
import { Slab } from '../../src/util/slab.ts'

import { type Priority, Urgency } from '../../src/util/urgency.ts'
import { type MarkedStore, markedPages, markedStore } from './marked-store.ts'

const CHUNKS = 60
const PAGES = 2
const SLOTS = 16

interface Started {
  readonly worker: Worker
  /** It is up. */
  readonly up: Promise<void>
  /** Requests that it was given. */
  requests: number
}

/** Threads in the order in which they were started. */
const started: Started[] = vi.hoisted(() => [])
/** Of each request: whether it is kept from the thread, which so never comes to its end. */
const stuck = vi.hoisted(() => ({ now: false }))

vi.mock('node:worker_threads', async original => {
  const real = await original<typeof import('node:worker_threads')>()
  class Watched extends real.Worker {
    readonly #started: Started
    constructor(...args: ConstructorParameters<typeof real.Worker>) {
      super(...args)
      this.#started = { worker: this, up: new Promise(resolve => this.once('message', () => resolve())), requests: 0 }
      started.push(this.#started)
    }
    override postMessage(request: unknown): void {
      this.#started.requests++
      if (!stuck.now) super.postMessage(request)
    }
  }
  return { ...real, Worker: Watched }
})

let marked: MarkedStore
let memory: { readonly arena: Arena['memory']; readonly slab: Slab }
let opening: Opening
let chunks: OpenedChunks
let read: (chunk: number, priority: Priority) => Promise<void>
beforeEach(async () => {
  started.splice(0)
  stuck.now = false
  marked = await markedStore(CHUNKS, PAGES)
  memory = { arena: Arena.allocate(SLOTS), slab: new Slab(SLOTS, SEALED_BYTES_MAX) }
  opening = new Opening(memory, systemClock, 1)
  chunks = new OpenedChunks(memory.arena, opening, systemClock)
  const origin = new Origin(marked.objects, new OriginCounters(), memory.slab)
  const source = new SealedSource({ caches: [], fills: new Fills(), slab: memory.slab, clock: systemClock }, origin)
  const numbers = await chunks.hold(marked.columns, new AbortController().signal)
  read = async (chunk, priority) => {
    const { slot } = await chunks.want(numbers[chunk]!, () => marked.table.at(chunk), source, { urgency: new Urgency(priority) })
    expect(chunks.arena.pages(slot, 0, PAGES).equals(markedPages(chunk, PAGES))).toBe(true)
    chunks.arena.unpin(slot)
  }
})
afterEach(async () => {
  chunks.close(new EvalError('closed'))
  await opening.close()
  await marked[Symbol.asyncDispose]()
})

const range = (first: number, count: number): number[] => Array.from({ length: count }, (_, index) => first + index)

/** What the first is asked to open starts the thread. */
async function threadUp(): Promise<Started> {
  await read(0, 'prefetch')
  await started[0]!.up
  return started[0]!
}

describe('a thread that opens chunks', () => {
  it('opens prefetches, and demands of which several wait', async () => {
    const thread = await threadUp()
    await read(1, 'prefetch')
    expect(thread.requests).toBe(1)
    await Promise.all(range(2, SLOTS - 2).map(chunk => read(chunk, 'demand')))
    expect([thread.requests > 1, started.length]).toEqual([true, 1])
  })

  it('that dies of what it opens is replaced; that is opened all the same, and no slot is lost', async () => {
    const thread = await threadUp()
    stuck.now = true
    const reads = range(1, 8).map(chunk => read(chunk, chunk % 2 === 0 ? 'bulk' : 'prefetch'))
    await vi.waitUntil(() => thread.requests > 0)
    stuck.now = false
    await thread.worker.terminate()
    await Promise.all(reads)
    expect(started).toHaveLength(2)
    await started[1]!.up
    for (const chunk of range(10, CHUNKS - 10)) await read(chunk, 'prefetch')
    expect(started[1]!.requests).toBeGreaterThan(CHUNKS / 2)
    expect([chunks.figures().chunks, memory.slab.isIdle]).toEqual([SLOTS, true])
    expect(new Int32Array(memory.arena.pins).every(pins => pins === 0)).toBe(true)
  })

  it('that is stuck when it is closed fails what it was given, and nothing hangs', async () => {
    const thread = await threadUp()
    stuck.now = true
    const given = read(1, 'prefetch').catch((error: unknown) => error)
    await vi.waitUntil(() => thread.requests > 0)
    chunks.close(new EvalError('closed'))
    await opening.close()
    expect(await given).toBeInstanceOf(EvalError)
    await vi.waitUntil(() => memory.slab.isIdle)
  })
})
