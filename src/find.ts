/**
 * Finds snapshots in the roots of a store and reads their manifests, verified against their ids.
 */

import { DOCUMENT_BYTES_MAX } from './document.ts'
import type { EngineStore } from './engine.ts'
import { isThawError, ThawError } from './errors.ts'
import { decodeWrappedKeys } from './keys/wrapped.ts'
import type { Keyring } from './keys.ts'
import { manifestKey, manifestsPrefix, wrappedKeysKey } from './layout.ts'
import { decodeManifest, decodeOutline } from './manifest/decode.ts'
import { LIMITS, type Manifest, type Outline, snapshotIdOf } from './manifest.ts'
import { ID } from './names.ts'
import type { CallOptions, ObjectStore } from './store.ts'

/** Ids listed to tell whether a prefix is ambiguous. */
const MATCHES_SHOWN_MAX = 5

/** Where a snapshot lies. */
export interface Location {
  /** Hex. */
  readonly id: string
  readonly root: string
}

/** An opened snapshot, and where it and all its chunks lie. */
export interface StoredSnapshot extends Location {
  readonly manifest: Manifest
  /** 32 bytes: what opened the manifest. */
  readonly dataKey: Uint8Array
}

/** A manifest's bytes, which are those of its id. */
export interface FoundManifest extends Location {
  readonly bytes: Uint8Array
}

/** A manifest with what anyone can read of it. */
export interface FoundOutline extends FoundManifest {
  readonly outline: Outline
}

/** Through what a store is read. */
export interface StoreAccess {
  readonly objects: ObjectStore
  readonly engine: EngineStore
}

/**
 * Reads and opens a snapshot: manifest and wrapped keys are fetched together, so a hit in the first root is one round trip. The manifest may come from a cache; its keys
 * never do, so a snapshot that was removed is gone, and they say in which root it lies.
 * @param roots in lookup order.
 * @param known the snapshot as it was opened before, if it was: its manifest is not read again
 * @throws NOT_FOUND, CORRUPT, BAD_FORMAT, WRONG_KEY
 */
export async function openSnapshot(
  { objects, engine }: StoreAccess,
  keyring: Keyring,
  id: string,
  roots: readonly string[],
  options: CallOptions,
  known?: StoredSnapshot,
): Promise<StoredSnapshot> {
  let missing: string | undefined
  for (const root of roots) {
    const keysKey = wrappedKeysKey(root, id)
    const [found, wrapped] = await Promise.all([
      known?.manifest ?? absentIfNotFound(engine.get(id, manifestKey(root, id), { ...options, sizeMax: LIMITS.manifestBytes })),
      absentIfNotFound(objects.get(keysKey, { ...options, sizeMax: DOCUMENT_BYTES_MAX })),
    ])
    if (found === undefined) continue
    if (wrapped === undefined) {
      missing ??= keysKey
      continue
    }
    const snapshotId = Buffer.from(id, 'hex')
    const dataKey = await keyring.unwrap(decodeWrappedKeys(wrapped, snapshotId, keysKey), snapshotId)
    if (found instanceof Uint8Array) return { id, root, dataKey, manifest: decodeManifest(found, dataKey, id) }
    // Two data keys can open one manifest to different things, if it was made for that.
    if (!Buffer.from(dataKey).equals(known!.dataKey)) return await openSnapshot({ objects, engine }, keyring, id, [root], options)
    return root === known!.root ? known! : { ...known!, root }
  }
  if (missing === undefined) throw notFound(objects, id)
  throw new ThawError('NOT_FOUND', `snapshot ${id}: its wrapped keys are missing: ${missing}`, { object: missing })
}

/** The cleartext of a snapshot's manifest. @throws NOT_FOUND, CORRUPT, BAD_FORMAT */
export async function findOutline(objects: ObjectStore, id: string, roots: readonly string[], options: CallOptions): Promise<FoundOutline> {
  for (const root of roots) {
    const found = await readManifest(objects, { id, root }, options)
    if (found !== undefined) return { ...found, outline: decodeOutline(found.bytes, id) }
  }
  throw notFound(objects, id)
}

async function readManifest(objects: ObjectStore, { id, root }: Location, options: CallOptions): Promise<FoundManifest | undefined> {
  const object = manifestKey(root, id)
  const bytes = await absentIfNotFound(objects.get(object, { ...options, sizeMax: LIMITS.manifestBytes }))
  if (bytes === undefined) return undefined
  if (snapshotIdOf(bytes).toString('hex') === id) return { id, root, bytes }
  throw new ThawError('CORRUPT', `manifest ${object}: its bytes do not match its id`, { object, tier: 'origin' })
}

/** The one snapshot whose id starts with these hex digits. @throws NOT_FOUND, CONFLICT if there are several */
export async function findByPrefix(
  objects: ObjectStore,
  prefix: string,
  roots: readonly string[],
  options: CallOptions,
): Promise<Location> {
  const found = new Map<string, Location>()
  for (const root of roots) {
    for await (const location of listSnapshots(objects, root, options, prefix)) {
      if (!found.has(location.id)) found.set(location.id, location)
      if (found.size > MATCHES_SHOWN_MAX) break
    }
  }
  const [first, ...others] = found.values()
  if (first === undefined)
    throw new ThawError('NOT_FOUND', `no snapshot in ${objects.url} has an id that starts with ${prefix}`, { object: prefix })
  if (others.length === 0) return first
  const ids = [...found.keys()].map(id => id.slice(0, prefix.length + 8)).join(', ')
  throw new ThawError(
    'CONFLICT',
    `${prefix} is the start of several ids: give more digits (${ids}${found.size > MATCHES_SHOWN_MAX ? ', …' : ''})`,
    {
      object: prefix,
    },
  )
}

/** Snapshots of a root, by ascending id. */
export async function* listSnapshots(objects: ObjectStore, root: string, options: CallOptions, idPrefix = ''): AsyncGenerator<Location> {
  const prefix = manifestsPrefix(root)
  for await (const { key } of objects.list(prefix + idPrefix, options)) {
    const id = key.slice(prefix.length)
    if (ID.test(id)) yield { id, root }
  }
}

async function absentIfNotFound<T>(found: Promise<T>): Promise<T | undefined> {
  try {
    return await found
  } catch (error) {
    if (isThawError(error, 'NOT_FOUND')) return undefined
    throw error
  }
}

function notFound(objects: ObjectStore, id: string): ThawError {
  return new ThawError('NOT_FOUND', `no snapshot ${id} in ${objects.url}`, { object: id })
}
