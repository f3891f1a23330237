/**
 * A reading thread for tests of lines. It wants the chunks of a snapshot one after the other, until one fails, and posts what became of them; with an eventfd it waits in `poll`
 * and its event loop stands still meanwhile, without one it waits for messages.
 */
import assert from 'node:assert/strict'
import { parentPort, workerData } from 'node:worker_threads'
import { ABSENT, Arena, type ArenaMemory } from '../../src/arena.ts'
import type { LineEnd } from '../../src/engine/line.ts'
import { type Completion, LineClient } from '../../src/engine/line-client.ts'
import { silenceEventFd } from '../../src/util/eventfd.ts'
import { markedPages } from './marked-store.ts'

export interface LineThreadOptions {
  readonly arena: ArenaMemory
  readonly end: LineEnd
  readonly handle: number
  readonly chunks: number
  readonly pages: number
  /** How many wants to make, two at a time. */
  readonly wants: number
}

export interface LineThreadResult {
  readonly good: number
  /** Codes of failures. */
  readonly codes: readonly (string | undefined)[]
}

const { arena: memory, end, handle, chunks, pages, wants } = workerData as LineThreadOptions
const arena = new Arena(memory)
const line = new LineClient(end)
const codes: (string | undefined)[] = []
/** By the number of the request. */
const wanted = new Map<number, number>()
let [good, asked] = [0, 0]

function ask(): void {
  while (asked < wants && line.outstanding < 2) {
    const chunk = asked++ % chunks
    wanted.set(line.want(handle, chunk, 'demand'), chunk)
  }
}

function look({ request, slot, code }: Completion): void {
  const chunk = wanted.get(request)
  assert(chunk !== undefined)
  wanted.delete(request)
  if (slot === ABSENT) {
    codes.push(code)
    asked = wants
  } else {
    if (arena.pages(slot, 0, pages).equals(markedPages(chunk, pages))) good++
    arena.unpin(slot)
  }
}

/** Does what there is to do; false: all is done. */
function turn(): boolean {
  do {
    ask()
    for (let done = line.next(); done !== undefined; done = line.next()) look(done)
  } while (asked < wants && line.outstanding < 2)
  return line.outstanding > 0
}

function finish(): void {
  line.close()
  parentPort!.postMessage({ good, codes } satisfies LineThreadResult)
}

function onBell(): void {
  line.wake()
  while (turn()) if (line.sleep()) return
  finish()
}

if (end.bellFd === undefined) {
  end.port.on('message', onBell)
  onBell()
} else {
  const { default: koffi } = await import('koffi')
  const poll = koffi.load('libc.so.6').func('int poll(void *fds, unsigned long count, int timeoutMs)')
  const fds = Buffer.alloc(8)
  fds.writeInt32LE(end.bellFd, 0)
  fds.writeInt16LE(1, 4)
  while (turn()) {
    if (!line.sleep()) continue
    poll(fds, 1, -1)
    line.wake()
    silenceEventFd(end.bellFd)
  }
  finish()
}
