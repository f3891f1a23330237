/** Wants of a pager: who waits is told once, or not at all if he was forgotten, even while others are told. */
import { setImmediate as turn } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { Arena, ArenaWriter } from '../../src/arena.ts'
import { openEnds } from '../../src/engine/line-open.ts'
import { LineServer } from '../../src/engine/line-server.ts'
import type { Pinned } from '../../src/engine.ts'
import { ThawError } from '../../src/errors.ts'
import { LineWants } from '../../src/pager/wants.ts'
import type { ChunkWaiter } from '../../src/pager.ts'

const DEADLINE_MS = 60_000

/** Waits, and when it is told has the wants forget the others. */
class Spoiler implements ChunkWaiter {
  readonly told: string[] = []
  victims: readonly Spoiler[] = []
  readonly #wants: LineWants

  constructor(wants: LineWants) {
    this.#wants = wants
  }

  onChunk(): void {
    this.#tell('chunk')
  }

  onChunkFailed(_chunk: number, code: string | undefined): void {
    this.#tell(String(code))
  }

  #tell(what: string): void {
    this.told.push(what)
    for (const victim of this.victims) this.#wants.forget(victim)
  }
}

describe.each([
  ['a chunk that came', undefined, 'chunk'],
  ['a chunk that cannot be had', new ThawError('CORRUPT', 'bad'), 'CORRUPT'],
])('of %s', (_what, failure, expected) => {
  it('nobody hears who was forgotten while others were told', async () => {
    const memory = Arena.allocate(2)
    const arena = new ArenaWriter(memory)
    const want = async (): Promise<Pinned> => {
      if (failure !== undefined) throw failure
      return { slot: 0, tier: 'origin' }
    }
    const { reader, engine } = await openEnds('message')
    const server = new LineServer(engine, { arena, want }, () => undefined)
    const wants = new LineWants(new Arena(memory), reader)
    wants.attach({ watch() {}, rewatch() {}, unwatch() {}, after: () => () => undefined })
    const waiters = Array.from({ length: 4 }, () => new Spoiler(wants))
    const [first, second, , fourth] = waiters as [Spoiler, Spoiler, Spoiler, Spoiler]
    first.victims = [second, fourth]
    for (const waiter of waiters) wants.want(1, 5, waiter, DEADLINE_MS)
    arena.publish(7, 0, 1)
    for (let turns = 0; turns < 1000 && first.told.length === 0; turns++) {
      await turn()
      wants.poll()
    }
    expect(waiters.map(({ told }) => told)).toEqual([[expected], [], [expected], []])
    wants.close()
    server.close()
  })
})
