/** What becomes of reads when stores, snapshots and engines end around them. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { ABSENT } from '../../src/arena.ts'
import { LocalEngine } from '../../src/engine/local.ts'
import type { Engine } from '../../src/engine.ts'
import type { Snapshot } from '../../src/index.ts'
import type { ObjectStore } from '../../src/store.ts'
import { faultStore, VirtualClock } from '../../src/testing.ts'
import { codeOfAsync } from '../code-of.ts'
import { openThrough, type PushedImage, pushedImage } from '../fault/read-path.ts'
import { patchedStore } from '../patched-store.ts'

const RANGE_BYTES = 512 * 1024

let pushed: PushedImage

beforeAll(async () => {
  pushed = await pushedImage(24)
})
afterAll(() => pushed[Symbol.asyncDispose]())

const small = (): LocalEngine => new LocalEngine({ memoryBytes: 0, caches: [] })

async function openSnapshot(
  engine: Engine,
  objects: ObjectStore = pushed.objects,
): Promise<{ snapshot: Snapshot; close: () => Promise<void> }> {
  const store = await openThrough(objects, pushed.keyring, engine)
  return { snapshot: await store.open(pushed.id), close: () => store.close() }
}

async function isRight(snapshot: Snapshot, offset: number, length: number): Promise<boolean> {
  return pushed.image.subarray(offset, offset + length).equals(await snapshot.image('memory').read(offset, length))
}

function pinsOf({ arena }: Engine): number {
  return new Int32Array(arena.memory.pins).reduce((sum, pins) => sum + pins, 0)
}

describe('two stores that share an engine', () => {
  it('do not share the end of one: who waits for a chunk that the other fetched gets it all the same', async () => {
    await using engine = small()
    const started = Promise.withResolvers<void>()
    const hangs = patchedStore(pushed.objects, {
      getInto: (_, __, { signal } = {}) => {
        started.resolve()
        return new Promise((_, reject) => signal?.addEventListener('abort', () => reject(signal.reason)))
      },
    })
    const one = await openSnapshot(engine, hangs)
    const other = await openSnapshot(engine)
    const first = codeOfAsync(() => one.snapshot.image('memory').read(0, 4096))
    await started.promise
    const second = isRight(other.snapshot, 0, 4096)
    await one.close()
    expect(await first).toBe('CLOSED')
    expect(await second).toBe(true)
    await other.close()
  })

  it('do not share what goes wrong in one', async () => {
    const clock = new VirtualClock()
    const engine = new LocalEngine({ memoryBytes: 0, caches: [], clock })
    const broken = faultStore(pushed.objects, {
      clock,
      plan: ({ method }) => (method === 'getInto' ? { kind: 'fail', when: 'after' } : undefined),
    })
    const one = await openSnapshot(engine, broken)
    const other = await openSnapshot(engine)
    const outcomes = [isRight(one.snapshot, 0, 4096), isRight(one.snapshot, 0, 4096), isRight(other.snapshot, 0, 4096)]
    expect(await clock.run(Promise.all(outcomes))).toEqual([true, true, true])
    await engine.close()
  })
})

describe('an engine that is closed', () => {
  it('leaves nothing in its arena, which the next one may take over, at whatever moment', async () => {
    for (let jobs = 0; jobs < 60; jobs++) {
      const engine = small()
      const read = Promise.withResolvers<void>()
      const objects = patchedStore(pushed.objects, {
        getInto: async (key, target) => {
          const length = await pushed.objects.getInto(key, target)
          read.resolve()
          return length
        },
      })
      const { snapshot } = await openSnapshot(engine, objects)
      const outcome = codeOfAsync(() => snapshot.image('memory').read(0, 4096))
      await read.promise
      for (let job = 0; job < jobs; job++) await Promise.resolve()
      await engine.close()
      expect([undefined, 'CLOSED']).toContain(await outcome)
      await new Promise(setImmediate)
      for (let number = 0; number < 32; number++) expect(engine.arena.pin(number), `chunk ${number}, after ${jobs} jobs`).toBe(ABSENT)
    }
  })

  it('rejects what is under way with CLOSED', async () => {
    const engine = small()
    const hangs = patchedStore(pushed.objects, {
      getInto: (_, __, { signal } = {}) => new Promise((_, reject) => signal?.addEventListener('abort', () => reject(signal.reason))),
    })
    const { snapshot } = await openSnapshot(engine, hangs)
    const outcomes = [0, 1, 2].map(range => codeOfAsync(() => snapshot.image('memory').read(range * RANGE_BYTES, RANGE_BYTES)))
    await new Promise(setImmediate)
    await engine.close()
    expect(await Promise.all(outcomes)).toEqual(['CLOSED', 'CLOSED', 'CLOSED'])
    expect(await codeOfAsync(() => snapshot.image('memory').read(0, 4096))).toBe('CLOSED')
  })

  it('gives no bytes to snapshots that are still open, not even another engine’s in the same memory', async () => {
    const engine = small()
    const { snapshot } = await openSnapshot(engine)
    await engine.close()
    await using next = small()
    const later = await openSnapshot(next)
    expect(await isRight(later.snapshot, 0, pushed.image.length / 2)).toBe(true)
    const target = Buffer.alloc(4096)
    const stale = await snapshot
      .image('memory')
      .readInto(target, 0)
      .catch(error => error.code)
    expect(stale).toBe('CLOSED')
    await later.close()
  })
})

describe('a store that is closed around reads', () => {
  it('leaves no pin behind', async () => {
    await using engine = small()
    const { snapshot, close } = await openSnapshot(engine)
    await isRight(snapshot, 0, RANGE_BYTES)
    // The first range is there and pinned at once; the others are not.
    const outcome = codeOfAsync(() => snapshot.image('memory').read(0, 4 * RANGE_BYTES))
    const closed = close()
    expect(await outcome).toBe('CLOSED')
    await closed
    expect(pinsOf(engine)).toBe(0)
  })
})

describe('a snapshot that is closed around reads', () => {
  it('gives right bytes or CLOSED, and nothing of a snapshot that has its numbers by then', async () => {
    await using engine = small()
    const store = await openThrough(pushed.objects, pushed.keyring, engine)
    for (let turn = 0; turn < 20; turn++) {
      const snapshot = await store.open(pushed.id)
      const right = isRight(snapshot, turn * 1000, 12 * RANGE_BYTES).catch(error => error.code)
      for (let job = 0; job < turn * 3; job++) await Promise.resolve()
      await snapshot.close()
      expect([true, 'CLOSED']).toContain(await right)
      expect(await codeOfAsync(() => snapshot.image('memory').read(0, 1))).toBe('CLOSED')
    }
    await store.close()
    expect(pinsOf(engine)).toBe(0)
  })

  it('does not want by numbers that it gave back', async () => {
    await using engine = small()
    const store = await engine.openStore(pushed.objects)
    const columns = {
      segments: [],
      ids: new Uint8Array(32),
      sealedBytes: Uint32Array.of(1),
      keys: new Uint8Array(32),
      pages: Uint8Array.of(1),
    }
    const held = await store.hold(columns, pushed.root)
    held.release()
    expect(await codeOfAsync(() => held.want(0))).toBe('CLOSED')
  })
})
