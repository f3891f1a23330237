/**
 * Who may read one snapshot must not get another tenant's pages by naming its chunks: an id is no secret, the key is. Not even while the other has the chunk opened in the
 * memory that both read from.
 */
import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { ChunkColumns } from '../../src/engine/chunk-table.ts'
import { LocalEngine } from '../../src/engine/local.ts'
import type { EngineStore, HeldSnapshot } from '../../src/engine.ts'
import { openSnapshot } from '../../src/find.ts'
import type { Manifest } from '../../src/manifest.ts'
import { ImageReader } from '../../src/reader.ts'
import { VirtualClock } from '../../src/testing.ts'
import { codeOfAsync } from '../code-of.ts'
import { FakeCache } from '../fault/fake-cache.ts'
import { type PushedImage, pushedImage } from '../fault/read-path.ts'

let pushed: PushedImage
let engine: LocalEngine
let store: EngineStore
let manifest: Manifest
let honest: HeldSnapshot

beforeAll(async () => {
  pushed = await pushedImage(4)
  engine = new LocalEngine({ memoryBytes: 0, caches: [] })
  store = await engine.openStore(pushed.objects)
  const { objects, keyring, id, root } = pushed
  manifest = (await openSnapshot({ objects, engine: store }, keyring, id, [root], {})).manifest
  honest = await store.hold(manifest, root)
})
afterAll(async () => {
  await engine.close()
  await pushed[Symbol.asyncDispose]()
})

function readerOf(held: HeldSnapshot): ImageReader {
  const { sizeBytes, map } = manifest.images[0]!
  const { starts, chunks, firsts } = map
  return new ImageReader({ sizeBytes, starts, chunks, firsts, numbers: held.numbers }, engine.arena)
}

async function readAll(held: HeldSnapshot): Promise<Buffer> {
  const target = Buffer.alloc(pushed.image.length)
  await readerOf(held).readInto(held, target, 0, {})
  return target
}

const wrongKeys = (): ChunkColumns => ({ ...manifest, keys: Uint8Array.from(randomBytes(manifest.keys.length)) })

describe('a manifest with another’s chunk ids and wrong keys', () => {
  it('gets none of the pages, while the right ones are in the arena', async () => {
    expect((await readAll(honest)).equals(pushed.image)).toBe(true)
    const forged = await store.hold(wrongKeys(), pushed.root)
    try {
      expect([...forged.numbers].some(number => honest.numbers.includes(number))).toBe(false)
      const target = Buffer.alloc(4096)
      expect(readerOf(forged).tryReadInto(target, 0)).toBe(0)
      for (let chunk = 0; chunk < forged.numbers.length; chunk++) {
        expect(await codeOfAsync(() => forged.want(chunk))).toBe('BAD_FORMAT')
      }
      expect(target.every(byte => byte === 0)).toBe(true)
    } finally {
      forged.release()
    }
    expect(readerOf(honest).tryReadInto(Buffer.alloc(pushed.image.length), 0)).toBe(pushed.image.length)
  })

  it('gets none of them while the right reader’s fetch is under way, and does not disturb it', async () => {
    const fresh = new LocalEngine({ memoryBytes: 0, caches: [] })
    const other = await fresh.openStore(pushed.objects)
    const right = await other.hold(manifest, pushed.root)
    const forged = await other.hold(wrongKeys(), pushed.root)
    const outcomes = [0, 1, 2].flatMap(chunk => [codeOfAsync(() => forged.want(chunk)), codeOfAsync(() => right.want(chunk))])
    expect(await Promise.all(outcomes)).toEqual(['BAD_FORMAT', undefined, 'BAD_FORMAT', undefined, 'BAD_FORMAT', undefined])
    await fresh.close()
  })

  it('that says other lengths gets none of them, and has no cache forget its good copy', async () => {
    const clock = new VirtualClock()
    const disk = new FakeCache('disk', { clock })
    const cached = new LocalEngine({ memoryBytes: 0, caches: [disk] })
    const other = await cached.openStore(pushed.objects)
    const right = await other.hold(manifest, pushed.root)
    const read = async (): Promise<void> => cached.arena.unpin((await right.want(0)).slot)
    await read()
    await cached.settled()
    const kept = new Map(disk.entries)
    for (const more of [-1, 1]) {
      const forged = await other.hold({ ...wrongKeys(), sealedBytes: manifest.sealedBytes.map(bytes => bytes + more) }, pushed.root)
      expect(await codeOfAsync(() => forged.want(0))).toBe('CORRUPT')
    }
    expect(disk.entries).toEqual(kept)
    expect((await cached.figures()).disk).toMatchObject({ corrupt: 0 })
    await cached.close()
  })

  it('that says other page counts gets none of them either', async () => {
    await readAll(honest)
    const forged = await store.hold({ ...manifest, pages: manifest.pages.map(pages => pages - 1) }, pushed.root)
    expect(await codeOfAsync(() => forged.want(0))).toBe('BAD_FORMAT')
    forged.release()
  })
})
