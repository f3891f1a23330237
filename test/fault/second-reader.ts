/**
 * The reader of `test/reader-from-format/` over any object store, with the keys of a keyring file: what it reads, somebody else could have
 * read from docs/FORMAT.md alone.
 */
import { readFile } from 'node:fs/promises'
import { isThawError } from '../../src/errors.ts'
import type { ObjectStore } from '../../src/store.ts'
import { type Files, type List, readSnapshot, readStoreDocument, readTag } from '../reader-from-format/index.ts'
import { bytesOf } from './memory-store.ts'

/** Raw keys by key id. */
export interface ReaderKeys {
  readonly unwrapKeys: ReadonlyMap<string, Uint8Array>
  readonly publicKeys: ReadonlyMap<string, Uint8Array>
}

interface KeyEntry {
  readonly id: string
  readonly key: string
}

interface KeyringFile {
  readonly platformKeys: readonly KeyEntry[]
  readonly tenants: Readonly<Record<string, { readonly keys: readonly KeyEntry[] }>>
  readonly signingKeys: readonly { readonly id: string; readonly publicKey: string }[]
}

export async function readerKeys(keyringPath: string): Promise<ReaderKeys> {
  const { platformKeys, tenants, signingKeys } = JSON.parse(await readFile(keyringPath, 'utf8')) as KeyringFile
  const wrapping = [...platformKeys, ...Object.values(tenants).flatMap(({ keys }) => keys)]
  return {
    unwrapKeys: new Map(wrapping.map(({ id, key }) => [id, Buffer.from(key, 'hex')])),
    publicKeys: new Map(signingKeys.map(({ id, publicKey }) => [id, Buffer.from(publicKey, 'hex')])),
  }
}

/** The images of the snapshot that a tag names, by name. Rejects with the reader's own FormatError. */
export async function readIndependently(
  objects: ObjectStore,
  keys: ReaderKeys,
  tenant: string | null,
  name: string,
): Promise<Map<string, Buffer>> {
  const files: Files = async key => {
    try {
      return await bytesOf(objects, key)
    } catch (error) {
      if (isThawError(error, 'NOT_FOUND')) return undefined
      throw error
    }
  }
  const list: List = async prefix => (await Array.fromAsync(objects.list(prefix))).map(({ key }) => key)
  const { store } = await readStoreDocument(files)
  const tag = await readTag(files, list, store, tenant, name, keys.publicKeys)
  const snapshot = await readSnapshot(files, list, tag?.snapshot ?? '', keys.unwrapKeys)
  const images = new Map<string, Buffer>()
  for (const image of snapshot.images) images.set(image.name, Buffer.from(await image.bytes()))
  return images
}
