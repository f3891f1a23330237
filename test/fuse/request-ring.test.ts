/** The ring between the thread that reads requests and the one that answers them. */
import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { describe, expect, it } from 'vitest'
import { RequestRing } from '../../src/frontend/fuse/request-ring.ts'

const REQUEST_BYTES = 64
const RING = new URL('../../src/frontend/fuse/request-ring.ts', import.meta.url).href
const WORDS_PUT = 0
const WORDS_TAKEN = 1

const target = Buffer.alloc(REQUEST_BYTES)
const take = (ring: RequestRing): string => target.toString('latin1', 0, ring.take(target))

function put(ring: RequestRing, text: string): boolean {
  return ring.put(ring.free()!.write(text, 'latin1'))
}

describe('a ring', () => {
  it('gives requests in order, also when its counts begin anew', () => {
    const ring = RequestRing.allocate(REQUEST_BYTES)
    new Int32Array(ring.memory.control).fill(2 ** 31 - 6, WORDS_PUT, WORDS_TAKEN + 1)
    for (let round = 0; round < 5; round++) {
      for (const at of [1, 2, 3, 4]) put(ring, `${round}.${at}`)
      expect([1, 2, 3, 4].map(() => take(ring))).toEqual([1, 2, 3, 4].map(at => `${round}.${at}`))
      expect(ring.take(target)).toBe(0)
    }
  })

  it('rings once for many, and again for whoever went quiet', () => {
    const ring = RequestRing.allocate(REQUEST_BYTES)
    expect([put(ring, 'a'), put(ring, 'b')]).toEqual([true, false])
    ring.hush()
    expect([take(ring), take(ring)]).toEqual(['a', 'b'])
    expect([put(ring, 'c'), put(ring, 'd')]).toEqual([true, false])
  })

  it('has its reader wait when it is full, and end when it is told to', async () => {
    const ring = RequestRing.allocate(REQUEST_BYTES)
    const code = `
      const { parentPort, workerData } = require('node:worker_threads')
      import(${JSON.stringify(RING)}).then(({ RequestRing }) => {
        const ring = new RequestRing(workerData)
        ring.begin()
        for (let i = 0, request; (request = ring.free()) !== undefined; i++) if (ring.put(request.write(String(i)))) parentPort.postMessage('rung')
        ring.end()
      })`
    const reader = new Worker(code, { eval: true, workerData: ring.memory })
    const taken: string[] = []
    while (taken.length < 1000) {
      await once(reader, 'message')
      ring.hush()
      for (let text = take(ring); text !== ''; text = take(ring)) taken.push(text)
    }
    expect(taken).toEqual(taken.map((_, index) => String(index)))
    expect(ring.waitForEnd(0)).toBe(false)
    ring.stop()
    expect(ring.waitForEnd(30_000)).toBe(true)
    await reader.terminate()
  })

  it('is not waited for whose reader has not begun', () => {
    expect(RequestRing.allocate(REQUEST_BYTES).waitForEnd(30_000)).toBe(true)
  })
})
