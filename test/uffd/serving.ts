/** A snapshot with a memory image, served by userfaultfd to stand-in VMMs: what the tests of the front end begin with. */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { serveUffd, type UffdOptions, type UffdPager } from '../../src/frontend/uffd.ts'
import { openStore, type SnapshotStore } from '../../src/index.ts'
import { type Cache, type CacheOptions, createCache } from '../../src/open-cache.ts'
import type { Restore, RestoreEvent, RestoreOptions } from '../../src/restore.ts'
import type { Snapshot } from '../../src/snapshot.ts'
import { pieces, type SmallStore, smallStore } from '../small-store.ts'
import { startVmm, type Vmm, type VmmOptions } from './vmm.ts'

export interface Served extends AsyncDisposable {
  readonly restore: Restore
  readonly pager: UffdPager
  /** All so far. */
  readonly events: readonly RestoreEvent[]
}

/** A pushed image, the file it came from, and an open snapshot of it. */
export class MemoryStore implements AsyncDisposable {
  readonly small: SmallStore
  readonly image: Buffer
  /** Path of the image. */
  readonly file: string
  readonly id: string
  #lastSocket = 0

  private constructor(small: SmallStore, image: Buffer, file: string, id: string) {
    this.small = small
    this.image = image
    this.file = file
    this.id = id
  }

  static async of(image: Buffer): Promise<MemoryStore> {
    const small = await smallStore()
    const file = join(small.dir, 'image')
    await writeFile(file, image)
    const { id } = await small.store.push({ layer: 'os', images: { memory: { kind: 'memory', stream: pieces(image) } } })
    return new MemoryStore(small, image, file, id)
  }

  socket(): string {
    return join(this.small.dir, `${++this.#lastSocket}.sock`)
  }

  /** A reader with a cache of its own. */
  async open(options: CacheOptions = {}): Promise<OpenMemory> {
    const cache = await createCache(options)
    const store = await openStore(this.small.url, { keyring: this.small.keyring, cache })
    return new OpenMemory(this, cache, store, await store.open(this.id))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.small[Symbol.asyncDispose]()
  }
}

export class OpenMemory implements AsyncDisposable {
  readonly cache: Cache
  readonly snapshot: Snapshot
  readonly #memory: MemoryStore
  readonly #store: SnapshotStore

  constructor(memory: MemoryStore, cache: Cache, store: SnapshotStore, snapshot: Snapshot) {
    this.#memory = memory
    this.cache = cache
    this.#store = store
    this.snapshot = snapshot
  }

  async serve(options: Partial<UffdOptions> = {}, restoreOptions: RestoreOptions = {}): Promise<Served> {
    const events: RestoreEvent[] = []
    const overlay = { dir: join(this.#memory.small.dir, 'overlays') }
    const restore = await this.snapshot.restore({ overlay, onEvent: event => events.push(event), ...restoreOptions })
    const pager = await serveUffd(restore, 'memory', { socket: this.#memory.socket(), ...options })
    return { restore, pager, events, [Symbol.asyncDispose]: () => restore.close() }
  }

  /** A VMM with the whole image in one region, or in those given. */
  vmm({ pager }: Served, options: Partial<VmmOptions> = {}): Promise<Vmm> {
    const { file, image } = this.#memory
    return startVmm({ socket: pager.socket, image: file, regions: [{ sizeBytes: image.length, offsetBytes: 0 }], ...options })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.snapshot.close()
    await this.#store.close()
    await this.cache.close()
  }
}
