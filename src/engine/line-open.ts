/** Opening a line: its memory, its two ends, its bell; and closing it when both sides are done. */
import { MessageChannel } from 'node:worker_threads'
import type { Line } from '../engine.ts'
import { closeEventFd, openEventFd } from '../util/eventfd.ts'
import { allocateLine, type LineEnd } from './line.ts'

/** The two ends of a new line. Whoever calls closes `bellFd` in the end: OpenedLine does. */
export async function openEnds(bell: 'eventfd' | 'message'): Promise<{ readonly reader: LineEnd; readonly engine: LineEnd }> {
  const memory = allocateLine()
  const bellFd = bell === 'eventfd' ? await openEventFd() : undefined
  const { port1, port2 } = new MessageChannel()
  return { reader: { memory, port: port1, bellFd }, engine: { memory, port: port2, bellFd } }
}

export class OpenedLine implements Line {
  readonly end: LineEnd
  readonly #stop: () => Promise<void>
  #closed: Promise<void> | undefined

  /** `stop` settles when the engine's side rings no more, and does not reject. */
  constructor(end: LineEnd, stop: () => Promise<void>) {
    this.end = end
    this.#stop = stop
  }

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    await this.#stop()
    if (this.end.bellFd !== undefined) closeEventFd(this.end.bellFd)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}
