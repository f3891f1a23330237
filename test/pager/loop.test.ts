/** A pager's loop over an epoll that the test makes up: whose turn it is, and timers that are far away. */
import { describe, expect, it } from 'vitest'
import { Loop, type TurnOwner } from '../../src/pager/loop.ts'
import type { Watched } from '../../src/pager.ts'
import { EPOLL_DATA_OFFSET, EPOLL_EVENT_BYTES, type Native } from '../../src/util/native.ts'
import { watchForLoops } from '../watchdog.ts'

watchForLoops()

const EPOLLIN = 1
const NOTHING = { poll: () => false, sleep: () => true, wake: () => undefined }

/** Level-triggered, in the order of the descriptors. */
class FakeEpoll {
  readonly ready = new Set<number>()
  readonly timeouts: number[] = []
  /** By descriptor: what epoll gives back. */
  readonly #indices = new Map<number, number>()
  readonly native = {
    errno: () => 0,
    epollControl: (_epoll: number, _operation: number, fd: number, event: Buffer) => {
      this.#indices.set(fd, event.readUInt32LE(EPOLL_DATA_OFFSET))
      return 0
    },
    epollWait: (_epoll: number, events: Buffer, eventsMax: number, timeoutMs: number) => {
      this.timeouts.push(timeoutMs)
      const told = [...this.ready].slice(0, eventsMax)
      told.forEach((fd, i) => {
        events.writeUInt32LE(EPOLLIN, i * EPOLL_EVENT_BYTES)
        events.writeUInt32LE(this.#indices.get(fd)!, i * EPOLL_EVENT_BYTES + EPOLL_DATA_OFFSET)
      })
      return told.length
    },
  } as unknown as Native
}

function busy(serve: () => void): Watched {
  return {
    serve: () => {
      serve()
      return true
    },
    onBroken: error => {
      throw error
    },
  }
}

describe('a turn', () => {
  function run(turns: number, owners: readonly TurnOwner[]): number[] {
    const epoll = new FakeEpoll()
    const loop = new Loop({ native: epoll.native, epollFd: 9, source: NOTHING, spinMicroseconds: 0 })
    const served = owners.map(() => 0)
    owners.forEach((owner, fd) => {
      epoll.ready.add(fd)
      loop.watch(
        fd,
        busy(() => {
          served[fd]!++
          if (served.reduce((sum, count) => sum + count) === turns) loop.stop()
        }),
        owner,
      )
    })
    loop.run()
    return served
  }

  it('serves one descriptor of each tenant, however many the others have', () => {
    const storm = { tenant: 'storm', servedAt: 0 }
    const served = run(2000, [...Array.from({ length: 300 }, () => storm), { tenant: 'quiet', servedAt: 0 }])
    expect(served.at(-1)).toBe(1000)
    // Nor does one of the storm's starve.
    expect(new Set(served.slice(0, 300))).toEqual(new Set([3, 4]))
  })

  it('goes round the restores of a tenant', () => {
    const storm = { tenant: 'one', servedAt: 0 }
    const served = run(900, [...Array.from({ length: 50 }, () => storm), { tenant: 'one', servedAt: 0 }])
    expect(served.at(-1)).toBeGreaterThan(100)
    expect(Math.min(...served)).toBeGreaterThan(10)
  })
})

describe('a timer', () => {
  it.each([2 ** 31, 2 ** 40, Number.POSITIVE_INFINITY])('may be %d ms away', ms => {
    const epoll = new FakeEpoll()
    const loop = new Loop({ native: epoll.native, epollFd: 9, spinMicroseconds: 0, source: { ...NOTHING, wake: () => loop.stop() } })
    let rung = false
    loop.after(ms, () => {
      rung = true
    })
    loop.run()
    expect([rung, epoll.timeouts.at(-1)]).toEqual([false, 2 ** 31 - 1])
  })
})
