/** Small stores with a keyring, for tests. */
import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PAGE_BYTES } from '../src/chunk.ts'
import { createFileKeyring, type FileKeyring, initStore, openStore, type SnapshotStore } from '../src/index.ts'

export interface SmallStore extends AsyncDisposable {
  /** A temporary folder; everything below it goes with the store. */
  readonly dir: string
  readonly url: string
  readonly keyring: FileKeyring
  readonly store: SnapshotStore
}

/** A directory store with the tenants acme and beta. */
export async function smallStore(): Promise<SmallStore> {
  const dir = await mkdtemp(join(tmpdir(), 'thaw-test-'))
  const url = join(dir, 'store')
  const keyring = await createFileKeyring(join(dir, 'keys'))
  await keyring.createTenant('acme')
  await keyring.createTenant('beta')
  await initStore(url, { keyring })
  const store = await openStore(url, { keyring })
  return {
    dir,
    url,
    keyring,
    store,
    async [Symbol.asyncDispose]() {
      await store.close()
      await rm(dir, { recursive: true, force: true })
    },
  }
}

/** An image's bytes, handed over in pieces that fit no boundary. */
export async function* pieces(bytes: Uint8Array, size = 100_003): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size)
}

/** Pages that do not compress, a tenth of them zero, and runs of zero pages. */
export function randomImage(pages: number): Buffer {
  const bytes = randomBytes(pages * PAGE_BYTES)
  for (let page = 0; page < pages; page++) {
    if (page % 10 === 3 || page % 700 > 600) bytes.fill(0, page * PAGE_BYTES, (page + 1) * PAGE_BYTES)
  }
  return bytes
}

/** The image with these pages filled with a byte each. */
export function withPages(image: Buffer, changes: Iterable<readonly [page: number, fill: number]>): Buffer {
  const changed = Buffer.from(image)
  for (const [page, fill] of changes) changed.fill(fill, page * PAGE_BYTES, Math.min(changed.length, (page + 1) * PAGE_BYTES))
  return changed
}
