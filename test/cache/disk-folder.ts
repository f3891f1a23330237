/** Looks at a disk cache's folder from outside, and waits for what happens in it by itself. */
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { SealedCache } from '../../src/cache.ts'
import { VirtualClock } from '../../src/util/virtual-clock.ts'

/** Entries as files: id → bytes they take from the disk, in blocks of 4 KiB. */
export async function entriesIn(path: string): Promise<Map<string, number>> {
  const entries = new Map<string, number>()
  for (const name of await readdir(join(path, 'v1'), { recursive: true })) {
    const id = name.split('/')[1]
    if (id === undefined || !/^[0-9a-f]{64}$/.test(id)) continue
    // What is evicted meanwhile is not there.
    const size = await stat(join(path, 'v1', name)).then(
      stats => stats.size,
      () => undefined,
    )
    if (size !== undefined) entries.set(id, Math.max(1, Math.ceil(size / 4096)) * 4096)
  }
  return entries
}

export async function bytesIn(path: string): Promise<number> {
  return [...(await entriesIn(path)).values()].reduce((sum, bytes) => sum + bytes, 0)
}

export function entryPath(path: string, id: string): string {
  return join(path, 'v1', id.slice(0, 2), id)
}

export async function roleOf(cache: SealedCache): Promise<string | number | undefined> {
  return (await cache.describe()).details.role
}

const TURN_MS = 30_000

/** Virtual time that knows how many disk caches wait for their next turn: a turn is real work on files, which virtual time does not wait for. */
export class TurnClock extends VirtualClock {
  #waiting = 0

  override after(ms: number, call: () => void): () => void {
    if (ms !== TURN_MS) return super.after(ms, call)
    this.#waiting++
    let counted = true
    const leave = (): void => {
      if (counted) this.#waiting--
      counted = false
    }
    const callOff = super.after(ms, () => {
      leave()
      call()
    })
    return () => {
      leave()
      callOff()
    }
  }

  /** Opens a cache and lets it take its first turn. */
  async opened(open: Promise<SealedCache>): Promise<SealedCache> {
    const waiting = this.#waiting
    const cache = await open
    if ((await cache.describe()).details.role !== 'observer') await eventually(() => this.#waiting > waiting)
    return cache
  }

  /** Lets every cache take its next turn, and waits until all have. */
  async turn(): Promise<void> {
    const waiting = this.#waiting
    await this.advance(TURN_MS)
    await eventually(() => this.#waiting >= waiting)
  }
}

/** Settles when `holds` does; the test's own deadline ends the waiting. */
export async function eventually(holds: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await holds())) await new Promise(resolve => setTimeout(resolve, 5))
}
