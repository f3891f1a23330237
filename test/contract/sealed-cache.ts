/**
 * What every cache of sealed bytes must do: the contract of src/cache.ts as tests. A cache may forget, so what each sort forgets when, and how it fails, has
 * tests of its own; a healthy cache with room for 32 MiB forgets none of what is put here.
 */
import { randomBytes } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { Allocate, SealedCache } from '../../src/cache.ts'
import type { CallOptions } from '../../src/store.ts'

/** The longest sealed chunk: 128 pages and a page of padding. */
const CHUNK_BYTES_MAX = 528_384
const MANIFEST_BYTES = 5 * 2 ** 20 + 1

/** Runs the suite; `open` gives a fresh, empty cache with room for at least 32 MiB and entries of 6 MiB for each test, which the suite closes. */
export function sealedCacheContract(name: string, open: () => Promise<SealedCache>): void {
  describe(`${name} keeps the sealed cache contract`, () => {
    let cache: SealedCache

    beforeEach(async () => {
      cache = await open()
    })
    afterEach(() => cache.close())

    const kept = (id: string): Promise<Uint8Array | undefined> => cache.get(id, allocate)

    describe('get and put', () => {
      it.each([1, 4096, 160_001, CHUNK_BYTES_MAX, MANIFEST_BYTES])('gives back %i bytes', async length => {
        const [id, sealed] = [randomId(), randomBytes(length)]
        expect(await cache.put(id, sealed)).toBe(true)
        expectBytes(await kept(id), sealed)
        expectBytes(await kept(id), sealed)
      })

      it('misses what it does not have, and asks for no memory', async () => {
        await cache.put(randomId(), randomBytes(10))
        expect(await cache.get(randomId(), refuse)).toBeUndefined()
      })

      it('reads into the memory it is given, asked for by the length', async () => {
        const [id, sealed] = [randomId(), randomBytes(5000)]
        await cache.put(id, sealed)
        const slot = new Uint8Array(new SharedArrayBuffer(2 ** 20), 4096, CHUNK_BYTES_MAX)
        const asked: number[] = []
        const found = await cache.get(id, sizeBytes => {
          asked.push(sizeBytes)
          return slot
        })
        expect(asked).toEqual([5000])
        expect(found?.buffer).toBe(slot.buffer)
        expect(found?.byteOffset).toBe(4096)
        expectBytes(found, sealed)
      })

      it('passes on what allocate throws, and keeps the entry', async () => {
        const [id, sealed] = [randomId(), randomBytes(100)]
        await cache.put(id, sealed)
        await expect(cache.get(id, refuse)).rejects.toBe(NO_MEMORY)
        expectBytes(await kept(id), sealed)
      })

      it('has no further use for the bytes once put settles', async () => {
        const [id, sealed] = [randomId(), randomBytes(200_000)]
        const before = Uint8Array.from(sealed)
        await cache.put(id, sealed)
        sealed.fill(0)
        expectBytes(await kept(id), before)
      })

      it('takes bytes from shared memory', async () => {
        const [id, sealed] = [randomId(), new Uint8Array(new SharedArrayBuffer(9000), 10, 8000)]
        sealed.set(randomBytes(8000))
        expect(await cache.put(id, sealed)).toBe(true)
        expectBytes(await kept(id), sealed)
      })

      it('keeps what is put again', async () => {
        const [id, sealed] = [randomId(), randomBytes(1000)]
        expect(await cache.put(id, sealed)).toBe(true)
        expect(await cache.put(id, sealed)).toBe(true)
        expectBytes(await kept(id), sealed)
      })

      it('keeps what many put at once under one id', async () => {
        const [id, sealed] = [randomId(), randomBytes(100_000)]
        const puts = await Promise.all(Array.from({ length: 8 }, () => cache.put(id, sealed)))
        expect(puts).toContain(true)
        expectBytes(await kept(id), sealed)
      })

      it('serves many at once', async () => {
        const entries = Array.from({ length: 32 }, () => [randomId(), randomBytes(50_000)] as const)
        const puts = await Promise.all(entries.map(([id, sealed]) => cache.put(id, sealed)))
        const gets = await Promise.all(entries.map(([id]) => kept(id)))
        expect(puts).toEqual(entries.map(() => true))
        for (const [index, [, sealed]] of entries.entries()) expectBytes(gets[index], sealed)
      })
    })

    it('forgets what is evicted, that alone, and takes it anew', async () => {
      const [id, other, sealed] = [randomId(), randomId(), randomBytes(1000)]
      await cache.put(id, randomBytes(1000))
      await cache.put(other, sealed)
      await cache.evict(id)
      await cache.evict(id)
      expect(await kept(id)).toBeUndefined()
      expectBytes(await kept(other), sealed)
      expect(await cache.put(id, sealed)).toBe(true)
      expectBytes(await kept(id), sealed)
    })

    it('forgets everything when it is cleared, says how much that was, and goes on', async () => {
      expect(await cache.clear()).toBe(0)
      const ids = [randomId(), randomId(), randomId()]
      for (const id of ids) await cache.put(id, randomBytes(1000))
      expect(await cache.clear()).toBe(3)
      for (const id of ids) expect(await kept(id)).toBeUndefined()
      expect(await cache.put(ids[0]!, randomBytes(10))).toBe(true)
      expect(await cache.clear()).toBe(1)
    })

    it('describes itself', async () => {
      await cache.put(randomId(), randomBytes(1000))
      const { tier, name: title, state, entries, bytes, bytesMax } = await cache.describe()
      expect({ tier, title, state }).toEqual({ tier: cache.tier, title: cache.name, state: 'up' })
      if (entries !== undefined) expect(entries).toBeGreaterThan(0)
      if (bytes !== undefined) expect(bytes).toBeGreaterThanOrEqual(1000)
      if (bytes !== undefined && bytesMax !== undefined) expect(bytes).toBeLessThanOrEqual(bytesMax)
    })

    it.each([
      ['nothing', ''],
      ['a short one', 'ab'.repeat(31)],
      ['a long one', 'ab'.repeat(33)],
      ['capitals', 'AB'.repeat(32)],
      ['a path', `../${'a'.repeat(61)}`],
      ['a pattern', '*'.repeat(64)],
      ['a line break', `${'a'.repeat(64)}\n`],
    ])('refuses %s as an id', async (_, id) => {
      await expect(cache.get(id, allocate)).rejects.toThrow(RangeError)
      await expect(cache.put(id, randomBytes(1))).rejects.toThrow(RangeError)
      await expect(cache.evict(id)).rejects.toThrow(RangeError)
    })

    it('rejects with the reason of an aborted signal, and does nothing', async () => {
      const [id, sealed] = [randomId(), randomBytes(100)]
      await cache.put(id, sealed)
      const reason = new Error('enough')
      const options = { signal: AbortSignal.abort(reason) }
      for (const call of everyCall(cache, id, options)) await expect(call()).rejects.toBe(reason)
      expectBytes(await kept(id), sealed)
    })

    it('settles with the reason of an abort on the way, or with the bytes, and leaves the memory alone then', async () => {
      const [id, sealed, reason] = [randomId(), randomBytes(CHUNK_BYTES_MAX), new Error('enough')]
      await cache.put(id, sealed)
      const memory = Buffer.alloc(CHUNK_BYTES_MAX)
      for (const turns of [0, 1, 2, 5]) {
        const abort = new AbortController()
        const call = cache.get(id, () => memory, { signal: abort.signal }).catch((error: unknown) => error)
        for (let turn = 0; turn < turns; turn++) await new Promise(resolve => setImmediate(resolve))
        abort.abort(reason)
        const came = await call
        if (came !== reason) expectBytes(came as Uint8Array, sealed)
        memory.fill(0xee)
        expectBytes(await kept(id), sealed)
        expect(memory.every(byte => byte === 0xee)).toBe(true)
      }
    })

    it('rejects everything with CLOSED after close, which is idempotent', async () => {
      const id = randomId()
      await cache.put(id, randomBytes(100))
      await Promise.all([cache.close(), cache.close()])
      await cache[Symbol.asyncDispose]()
      for (const call of everyCall(cache, id, {})) await expect(call()).rejects.toMatchObject({ code: 'CLOSED' })
    })

    it('lets calls under way end when it is closed', async () => {
      const [id, sealed] = [randomId(), randomBytes(CHUNK_BYTES_MAX)]
      await cache.put(id, sealed)
      const memory = Buffer.alloc(CHUNK_BYTES_MAX)
      const call = cache.get(id, () => memory).catch((error: unknown) => error)
      await cache.close()
      memory.fill(0xee)
      const came = await call
      if (came instanceof Uint8Array) expect(came).toHaveLength(sealed.length)
      else expect(came).toMatchObject({ code: 'CLOSED' })
      await new Promise(resolve => setImmediate(resolve))
      expect(memory.every(byte => byte === 0xee)).toBe(true)
    })
  })
}

const NO_MEMORY = new Error('no memory')

const allocate: Allocate = sizeBytes => Buffer.alloc(sizeBytes)
const refuse: Allocate = () => {
  throw NO_MEMORY
}

function randomId(): string {
  return randomBytes(32).toString('hex')
}

function everyCall(cache: SealedCache, id: string, options: CallOptions): readonly (() => Promise<unknown>)[] {
  return [
    () => cache.get(id, allocate, options),
    () => cache.put(id, randomBytes(10), options),
    () => cache.evict(id, options),
    () => cache.clear(options),
    () => cache.describe(options),
  ]
}

/** Compared by Buffer: an assertion over half a million numbers takes longer than all else. */
function expectBytes(actual: Uint8Array | undefined, expected: Uint8Array): void {
  expect(actual).toBeDefined()
  expect(actual).toHaveLength(expected.length)
  expect(Buffer.compare(actual!, expected)).toBe(0)
}
