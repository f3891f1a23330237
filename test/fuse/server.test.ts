/** A mount's turns: how much it takes, when it stops taking, and how it hears of its end. The loop and the kernel are stand-ins. */
import { beforeEach, expect, it } from 'vitest'
import { NOTHING, type Transport, UNMOUNTED } from '../../src/frontend/fuse/device.ts'
import { OPCODE } from '../../src/frontend/fuse/protocol.ts'
import { WAITING_MAX } from '../../src/frontend/fuse/requests.ts'
import { startFuse } from '../../src/frontend/fuse/server.ts'
import type { FrontEndEvent, Watched } from '../../src/pager.ts'
import type { Native } from '../../src/util/native.ts'
import { type FakeImage, fakeImage } from './fake-image.ts'

const MEMORY = 2
const PAGE = 4096
/** The transport is a stand-in too. */
const unused = {} as Native

let memory: FakeImage
let events: FrontEndEvent[]
/** Requests that the kernel has still. */
let pending: number
let isUnmounted: boolean
let isListening: boolean
let answered: number
let watched: Watched | undefined
/** Whether the next answer with bytes goes wrong. */
let isBroken: boolean

const transport: Transport = {
  receive(request) {
    if (pending === 0) return isUnmounted ? UNMOUNTED : NOTHING
    const words = new Uint32Array(request.buffer, request.byteOffset)
    words.fill(0, 0, 20)
    words.set([80, OPCODE.read, pending * 2, 0, MEMORY])
    words[14] = PAGE
    pending--
    return 80
  },
  isUnmounted: () => isUnmounted,
  write: () => {
    answered++
    return 0
  },
  writeGathered: () => {
    if (isBroken) throw new Error('a bug')
    answered++
    return 0
  },
}

function serveAll(): void {
  while (isListening && watched?.serve());
}

beforeEach(() => {
  memory = fakeImage('memory', Buffer.alloc(PAGE, 5))
  memory.isHeld = true
  events = []
  pending = WAITING_MAX + 10
  isUnmounted = false
  isBroken = false
  isListening = true
  answered = 0
  const loop = {
    watch: (_fd: number, server: Watched) => {
      watched = server
    },
    rewatch: (_fd: number, { readable }: { readonly readable: boolean }) => {
      isListening = readable
    },
    unwatch: () => {
      watched = undefined
    },
    after: () => () => undefined,
  }
  const look = { uid: 0, gid: 0, readOnlyMode: 0o444, writableMode: 0o644, timeMs: 0 }
  const images = new Map([['memory', memory]])
  const descriptors = { own: (fd: number) => fd, close: () => undefined }
  const emit = (event: FrontEndEvent): void => void events.push(event)
  startFuse({ native: unused, descriptors, loop, images, emit }, { kind: 'fuse', fd: 3, look, writable: [], readAheadBytes: 0 }, transport)
})

it('takes a bounded amount a turn', () => {
  watched!.serve()
  expect(pending).toBe(WAITING_MAX + 2)
})

it('takes no more than may wait, and goes on when one is answered', () => {
  serveAll()
  expect([pending, isListening]).toEqual([10, false])
  expect(watched!.serve()).toBe(false)
  expect(pending).toBe(10)
  memory.answer()
  expect(isListening).toBe(true)
  memory.isHeld = false
  serveAll()
  expect([pending, answered]).toEqual([0, WAITING_MAX + 10])
})

it('hears that it was unmounted, also while it takes nothing', () => {
  serveAll()
  expect(isListening).toBe(false)
  isUnmounted = true
  watched!.serve()
  expect(events).toEqual([{ kind: 'unmounted', inUse: false }])
  expect([watched, answered]).toEqual([undefined, WAITING_MAX])
})

it('ends by itself, and not with its pager, when an answer that had to wait goes wrong', () => {
  pending = 1
  serveAll()
  isBroken = true
  expect(() => memory.answer()).not.toThrow()
  expect(events).toMatchObject([{ kind: 'broken' }])
  expect([watched, answered]).toEqual([undefined, 2])
})
