/**
 * What every object store and every wrapper must do: the contract of src/store.ts as tests. Stores that can do more (checksums) or fail in their
 * own ways have tests of their own.
 */
import { createHash, randomBytes } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { compareKeys } from '../../src/store/object-key.ts'
import type { ObjectStore } from '../../src/store.ts'

const SIZE_MAX = 2 ** 20

/** Runs the suite; `open` gives a fresh, empty store for each test, which the suite closes. */
export function objectStoreContract(name: string, open: () => Promise<ObjectStore>): void {
  describe(`${name} keeps the object store contract`, () => {
    let store: ObjectStore

    beforeEach(async () => {
      store = await open()
    })
    afterEach(() => store.close())

    const write = async (key: string, body: Uint8Array | string): Promise<void> => {
      await store.put(key, Buffer.from(body))
      await store.sync()
    }
    const text = async (key: string): Promise<string> => Buffer.from(await store.get(key, { sizeMax: SIZE_MAX })).toString()

    describe('put and get', () => {
      it.each([0, 1, 4096, 528_384])('gives back %i bytes', async length => {
        const body = randomBytes(length)
        await write('a/b/c', body)
        expect(Buffer.compare(await store.get('a/b/c', { sizeMax: length }), body)).toBe(0)
        const target = Buffer.alloc(length + 10, 0xee)
        expect(await store.getInto('a/b/c', target)).toBe(length)
        expect(target.subarray(0, length).equals(body)).toBe(true)
        expect(target.subarray(length).every(byte => byte === 0xee)).toBe(true)
      })

      it('takes and fills views of shared memory', async () => {
        const shared = new Uint8Array(new SharedArrayBuffer(300_000), 1000, 200_000)
        shared.set(randomBytes(200_000))
        await store.put('a', shared)
        await store.putIfAbsent('b', shared)
        await store.sync()
        for (const key of ['a', 'b']) {
          const target = new Uint8Array(new SharedArrayBuffer(200_000))
          expect(await store.getInto(key, target)).toBe(200_000)
          expect(Buffer.compare(target, shared)).toBe(0)
        }
      })

      it('reads into a target of exactly its length', async () => {
        await write('a', 'four')
        const target = Buffer.alloc(4)
        expect(await store.getInto('a', target)).toBe(4)
        expect(target.toString()).toBe('four')
      })

      it('has no further use for the body once put settles', async () => {
        const body = Buffer.from('before')
        await store.put('a', body)
        body.fill(0)
        await store.sync()
        expect(await text('a')).toBe('before')
      })

      it('replaces', async () => {
        await write('a', 'first, longer')
        await write('a', 'second')
        await store.put('a', Buffer.from('third'))
        await store.put('a', Buffer.from('fourth'))
        await store.sync()
        expect(await text('a')).toBe('fourth')
      })

      it('gives a body that is the caller’s', async () => {
        await write('a', 'kept')
        ;(await store.get('a', { sizeMax: 4 })).fill(0)
        expect(await text('a')).toBe('kept')
      })

      it('refuses objects larger than asked for', async () => {
        await write('a', randomBytes(1000))
        await expect(store.get('a', { sizeMax: 999 })).rejects.toMatchObject({ code: 'BAD_FORMAT' })
        await expect(store.getInto('a', Buffer.alloc(999))).rejects.toMatchObject({ code: 'BAD_FORMAT' })
        await expect(store.getInto('a', Buffer.alloc(0))).rejects.toMatchObject({ code: 'BAD_FORMAT' })
      })

      it('checks a SHA-256 that fits', async () => {
        const body = randomBytes(5000)
        await store.put('a', body, { sha256: createHash('sha256').update(body).digest() })
        await store.sync()
        expect(Buffer.compare(await store.get('a', { sizeMax: SIZE_MAX }), body)).toBe(0)
      })

      it('writes many at once', async () => {
        const keys = Array.from({ length: 100 }, (_, index) => `many/${index % 10}/${index}`)
        await Promise.all(keys.map(key => store.put(key, Buffer.from(key))))
        await store.sync()
        expect(await Promise.all(keys.map(text))).toEqual(keys)
      })
    })

    describe('what is not there', () => {
      it('is NOT_FOUND, or undefined to head', async () => {
        await write('folder/object', 'x')
        for (const key of ['none', 'none/none', 'folder', 'folder/object/none']) {
          await expect(store.get(key, { sizeMax: 10 })).rejects.toMatchObject({ code: 'NOT_FOUND' })
          await expect(store.getInto(key, Buffer.alloc(10))).rejects.toMatchObject({ code: 'NOT_FOUND' })
          expect(await store.head(key)).toBeUndefined()
        }
      })

      it('is listed as nothing', async () => {
        expect(await listed(store, '')).toEqual([])
        expect(await listed(store, 'none/')).toEqual([])
        expect(await Array.fromAsync(store.listFolders(''))).toEqual([])
        expect(await Array.fromAsync(store.listFolders('none/'))).toEqual([])
      })

      it('can be deleted', async () => {
        await store.delete('none/none')
      })
    })

    it('head tells length, and SHA-256 where the store says so', async () => {
      const body = randomBytes(777)
      await write('a/b', body)
      const head = await store.head('a/b')
      expect(head?.sizeBytes).toBe(777)
      const sha256 = createHash('sha256').update(body).digest()
      if (store.headGivesSha256) expect(Buffer.from(head?.sha256 ?? []).equals(sha256)).toBe(true)
      else expect(head?.sha256).toBeUndefined()
    })

    describe('putIfAbsent', () => {
      it('writes what is not there, visibly at once', async () => {
        expect(await store.putIfAbsent('a/b', Buffer.from('first'))).toBe(true)
        expect(await text('a/b')).toBe('first')
      })

      it('keeps what is there', async () => {
        await store.putIfAbsent('a', Buffer.from('first'))
        for (const other of ['other', 'longer than first', '']) expect(await store.putIfAbsent('a', Buffer.from(other))).toBe(false)
        expect(await text('a')).toBe('first')
      })

      it('takes equal bytes for its own', async () => {
        await store.putIfAbsent('a', Buffer.from('same'))
        expect(await store.putIfAbsent('a', Buffer.from('same'))).toBe(true)
      })

      it('sees what was put', async () => {
        await store.put('a', Buffer.from('put'))
        expect(await store.putIfAbsent('a', Buffer.from('other'))).toBe(false)
        await store.sync()
        expect(await text('a')).toBe('put')
      })

      it('has one winner', async () => {
        const bodies = Array.from({ length: 10 }, (_, index) => Buffer.from(`writer ${index}`))
        const won = await Promise.all(bodies.map(body => store.putIfAbsent('a', body)))
        expect(won.filter(Boolean)).toHaveLength(1)
        expect(await text('a')).toBe(`writer ${won.indexOf(true)}`)
      })
    })

    describe('delete', () => {
      it('removes, also what is not synced yet', async () => {
        await write('a/b', 'x')
        await store.put('a/b', Buffer.from('y'))
        await store.delete('a/b')
        await store.sync()
        expect(await store.head('a/b')).toBeUndefined()
        expect(await listed(store, '')).toEqual([])
        expect(await Array.fromAsync(store.listFolders(''))).toEqual([])
      })

      it('leaves the neighbours', async () => {
        await write('a/b/1', 'x')
        await write('a/b/2', 'y')
        await store.delete('a/b/1')
        expect(await listed(store, '')).toEqual(['a/b/2'])
      })

      it('gives the name free', async () => {
        await store.putIfAbsent('a/b', Buffer.from('x'))
        await store.delete('a/b')
        expect(await store.putIfAbsent('a/b', Buffer.from('y'))).toBe(true)
      })
    })

    describe('listing', () => {
      // By bytes `-` < `.` < `/`, and U+FFFD (EF BF BD) < U+1D11E (F0 9D 84 9E), which UTF-16 orders the other way round.
      const keys = ['a-b', 'a.b/c', 'a/b', 'a/b.c', 'a/c/d', 'ab', 'b%3A', 'b:', 'z/\uFFFD', 'z/\u{1D11E}']

      beforeEach(async () => {
        for (const key of keys.toReversed()) await store.put(key, Buffer.from(key))
        await store.sync()
      })

      it('is in the order of UTF-8 bytes', async () => {
        expect(await listed(store, '')).toEqual(keys)
        expect(keys.toSorted(compareKeys)).toEqual(keys)
      })

      it.each(['a', 'a/', 'a/b', 'a/c', 'a.', 'b%', 'z/', 'nothing', 'a/b/'])('is of what starts with %s', async prefix => {
        expect(await listed(store, prefix)).toEqual(keys.filter(key => key.startsWith(prefix)))
      })

      it('tells lengths', async () => {
        expect(await Array.fromAsync(store.list('a/c'))).toEqual([{ key: 'a/c/d', sizeBytes: 5 }])
      })

      it('gives folders once, as their keys are ordered', async () => {
        expect(await Array.fromAsync(store.listFolders(''))).toEqual(['a.b', 'a', 'z'])
        expect(await Array.fromAsync(store.listFolders('a/'))).toEqual(['c'])
        expect(await Array.fromAsync(store.listFolders('z/'))).toEqual([])
      })

      it('can be left early', async () => {
        for await (const object of store.list('')) {
          expect(object.key).toBe(keys[0])
          break
        }
      })

      it('allows calls in between', async () => {
        for await (const { key } of store.list('a')) expect(await text(key)).toBe(key)
      })
    })

    it.each([
      ['nothing', ''],
      ['an absolute path', '/a'],
      ['a folder', 'a/'],
      ['an empty segment', 'a//b'],
      ['the folder itself', '.'],
      ['the folder above', '..'],
      ['a way up', 'a/../b'],
      ['a NUL', 'a\0b'],
      ['a line break', 'a\nb'],
      ['a temporary file', 'tmp/x'],
      ['a long segment', 'x'.repeat(256)],
      ['a long key', 'a/'.repeat(600)],
      ['half a character', '\ud800'],
    ])('refuses %s as a key', async (_, key) => {
      await expect(store.get(key, { sizeMax: 1 })).rejects.toThrow(RangeError)
      await expect(store.put(key, Buffer.alloc(1))).rejects.toThrow(RangeError)
      await expect(store.putIfAbsent(key, Buffer.alloc(1))).rejects.toThrow(RangeError)
      await expect(store.delete(key)).rejects.toThrow(RangeError)
      await expect(store.head(key)).rejects.toThrow(RangeError)
    })

    it.each(['/', 'a//', '../', 'a/../', 'tmp/'])('refuses %j as a prefix', async prefix => {
      await expect(listed(store, prefix)).rejects.toThrow(RangeError)
      await expect(Array.fromAsync(store.listFolders(prefix))).rejects.toThrow(RangeError)
    })

    it('rejects with the reason of an aborted signal', async () => {
      await write('a', 'x')
      const reason = new Error('enough')
      const signal = AbortSignal.abort(reason)
      await expect(store.get('a', { sizeMax: 1, signal })).rejects.toBe(reason)
      await expect(store.getInto('a', Buffer.alloc(1), { signal })).rejects.toBe(reason)
      await expect(store.head('a', { signal })).rejects.toBe(reason)
      await expect(store.put('a', Buffer.from('y'), { signal })).rejects.toBe(reason)
      await expect(store.putIfAbsent('b', Buffer.from('y'), { signal })).rejects.toBe(reason)
      await expect(store.delete('a', { signal })).rejects.toBe(reason)
      await expect(Array.fromAsync(store.list('', { signal }))).rejects.toBe(reason)
      await expect(Array.fromAsync(store.listFolders('', { signal }))).rejects.toBe(reason)
      await expect(store.sync({ signal })).rejects.toBe(reason)
      expect(await listed(store, '')).toEqual(['a'])
      expect(await text('a')).toBe('x')
    })

    it('settles with the reason of an abort on the way, unless it was done before', async () => {
      const reason = new Error('enough')
      const abort = new AbortController()
      const call = store.putIfAbsent('a', randomBytes(100_000), { signal: abort.signal }).catch((error: unknown) => error)
      abort.abort(reason)
      expect([reason, true]).toContain(await call)
    })

    it('rejects everything with CLOSED after close, which is idempotent', async () => {
      await write('a', 'x')
      await Promise.all([store.close(), store.close()])
      await expect(store.get('a', { sizeMax: 1 })).rejects.toMatchObject({ code: 'CLOSED' })
      await expect(store.put('a', Buffer.alloc(1))).rejects.toMatchObject({ code: 'CLOSED' })
      await expect(store.sync()).rejects.toMatchObject({ code: 'CLOSED' })
      await expect(listed(store, '')).rejects.toMatchObject({ code: 'CLOSED' })
    })
  })
}

async function listed(store: ObjectStore, prefix: string): Promise<string[]> {
  return (await Array.fromAsync(store.list(prefix))).map(({ key }) => key)
}
