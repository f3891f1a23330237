/** Handles of snapshots, over opened chunks that only write down what they are asked. */
import { describe, expect, it } from 'vitest'
import type { SealedSource } from '../../src/cache/tiered.ts'
import { HeldChunks, LocalSnapshot, SnapshotTable } from '../../src/engine/local-snapshot.ts'
import type { OpenedChunks } from '../../src/engine/opened-chunks.ts'
import type { HeldSnapshot, WantOptions } from '../../src/engine.ts'
import type { Owner } from '../../src/util/gate.ts'
import { Lifetime } from '../../src/util/lifetime.ts'
import { codeOfAsync } from '../code-of.ts'
import { ROOT } from './marked-store.ts'

const COLUMNS = {
  segments: [],
  ids: new Uint8Array(64),
  sealedBytes: new Uint32Array(2),
  keys: new Uint8Array(64),
  pages: new Uint8Array(2).fill(1),
}
const PLATFORM: Owner = { tenant: '', restore: '' }
const ACME: Owner = { tenant: 'acme', restore: 'r1' }

async function snapshots() {
  const asked: (Owner | undefined)[] = []
  const held: Uint32Array[] = []
  const released: Uint32Array[] = []
  const chunks = {
    hold: async () => {
      held.push(new Uint32Array(2))
      return held.at(-1)
    },
    release: (numbers: Uint32Array) => released.push(numbers),
    want: async (_: number, __: unknown, ___: unknown, { owner }: WantOptions) => {
      asked.push(owner)
      return { slot: 0, tier: 'memory' }
    },
  } as unknown as OpenedChunks
  const table = new SnapshotTable()
  const parts = { chunks, source: {} as SealedSource, snapshots: table }
  const siblings = new Set<HeldSnapshot>()
  const life = new Lifetime('the store')
  const snapshot = new LocalSnapshot(parts, life, await HeldChunks.hold(chunks, COLUMNS, ROOT, life.signal), PLATFORM, siblings)
  return { table, snapshot, siblings, asked, held, released }
}

describe('handles of a snapshot', () => {
  it('say on whose behalf a chunk is wanted, whichever way the want comes', async () => {
    const { table, snapshot, asked } = await snapshots()
    const lent = await snapshot.lend(ACME)
    await table.want(snapshot.handle, 0, {})
    await table.want(lent.handle, 1, {})
    await lent.want(0)
    expect(asked).toEqual([PLATFORM, ACME, ACME])
  })

  it('share one set of numbers, which the last of them gives back, once', async () => {
    const { table, snapshot, siblings, held, released } = await snapshots()
    const lent = await Promise.all(Array.from({ length: 200 }, () => snapshot.lend(ACME)))
    expect(held).toHaveLength(1)
    snapshot.release()
    snapshot.release()
    for (const one of lent.slice(1)) one.release()
    expect(released).toEqual([])
    expect(siblings.size).toBe(1)
    lent[0]!.release()
    expect(released).toEqual(held)
    expect(siblings.size).toBe(0)
    expect(await codeOfAsync(() => table.want(lent[0]!.handle, 0, {}))).toBe('CLOSED')
  })
})
