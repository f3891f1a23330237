/**
 * The snapshots of a store that are open. However often one is open, its manifest is read once, and
 * its columns and chunk numbers are there once: of a snapshot of 30 GiB they take 100 ms and 12 MB.
 */
import type { EngineStore, HeldSnapshot } from '../engine.ts'
import type { StoredSnapshot } from '../find.ts'
import type { CallOptions } from '../store.ts'
import { SingleFlight } from '../util/single-flight.ts'

export class OpenSnapshots {
  readonly #engine: EngineStore
  readonly #open = new Set<OpenSnapshot>()
  readonly #opening = new SingleFlight<string, OpenSnapshot>((open, users) => {
    open.add(users)
    open.release()
  })

  constructor(engine: EngineStore) {
    this.#engine = engine
  }

  /** A snapshot that is open, in whichever root. */
  find(id: string): StoredSnapshot | undefined {
    for (const { stored } of this.#open) if (stored.id === id) return stored
    return undefined
  }

  /**
   * Opens a snapshot, once for all who ask for the same `key` at a time, and holds it unless it is
   * open already. It is the caller's to release.
   * @param read gives it as `find` did, if it is the same
   * @throws what `read` throws; NO_SPACE, CLOSED
   */
  join(key: string, read: (options: CallOptions) => Promise<StoredSnapshot>, options: CallOptions): Promise<OpenSnapshot> {
    return this.#opening.join(key, async ({ signal }) => await this.#hold(await read({ signal })), options)
  }

  /** Used once: by the flight, until those who wait for it use it. */
  async #hold(stored: StoredSnapshot): Promise<OpenSnapshot> {
    for (const open of this.#open) {
      if (open.stored !== stored) continue
      open.add(1)
      return open
    }
    const { manifest, root } = stored
    const held = await this.#engine.hold(manifest, root, { tenant: manifest.tenant ?? '', restore: '' })
    const open: OpenSnapshot = new OpenSnapshot(stored, held, () => this.#open.delete(open))
    this.#open.add(open)
    return open
  }
}

/** A snapshot, for all who have it open. */
class OpenSnapshot {
  readonly stored: StoredSnapshot
  readonly held: HeldSnapshot
  readonly #onClose: () => void
  #users = 1

  constructor(stored: StoredSnapshot, held: HeldSnapshot, onClose: () => void) {
    this.stored = stored
    this.held = held
    this.#onClose = onClose
  }

  add(users: number): void {
    this.#users += users
  }

  /** The last one lets go of the columns and numbers. Once for each user. */
  release(): void {
    if (--this.#users > 0) return
    this.held.release()
    this.#onClose()
  }
}
