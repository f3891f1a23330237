/**
 * Roots: the generations of a store, and where each is in its life (docs/FORMAT.md section 4).
 *
 * Invariants
 * - `root.json` is written before the first state, so a root that has a state has a salt. One without a state is being made, or was given up,
 *   and does not count. Deleting a root therefore starts with its states.
 * - The state is the entry with the highest number; an entry is never changed, a new one is a put-if-absent of the next number.
 * - Nothing here is cached: that an expired root is seen at once is what makes deletion safe.
 *
 * The first root's id comes from the store's, so two `init` at once, or one after a crash, make the same root and not two; whose salt counts, the
 * store decides. All later ids are random.
 */
import { createHash, randomBytes } from 'node:crypto'
import { type DocumentSchema, encodeDocument, readDocument, timestamp } from './document.ts'
import { isThawError, ThawError } from './errors.ts'
import { createIdentity, readIdentity, requireKinship, type StoreIdentity } from './identity.ts'
import type { Keyring } from './keys.ts'
import { ROOTS_PREFIX, rootKey, STATE_SEQ_MAX, seqOfState, stateKey, statePrefix } from './layout.ts'
import { SHORT_ID } from './names.ts'
import { SEALING_PROFILE, type SealingProfile } from './seal.ts'
import type { CallOptions, ObjectStore } from './store.ts'
import { toHex } from './util/encoding.ts'

const SALT_BYTES = 32
const PROFILE_TEXT = /^[\x21-\x7e]{1,32}$/

/** In the order in which a snapshot is looked up; also the only order in which a root may change. */
export const ROOT_STATES = ['active', 'retired', 'expired'] as const
export type RootState = (typeof ROOT_STATES)[number]

export interface RootStateEntry {
  readonly root: string
  readonly seq: number
  readonly state: RootState
  /** RFC 3339. */
  readonly at: string
}

export interface Root {
  /** 16 hex digits. */
  readonly id: string
  /** RFC 3339. */
  readonly createdAt: string
  /** 32 bytes: part of every chunk key of this root. */
  readonly salt: Uint8Array
  /** What the chunks here were compressed by. */
  readonly profile: SealingProfile
  /** As it was when the root was read: ask `readRootState` before relying on it. */
  readonly current: RootStateEntry
}

/** Makes a store and its first root, or finds both, or makes what an interrupted `init` has left out. WRONG_KEY: a worker's keyring or another store's. */
export async function initStore(
  store: ObjectStore,
  keyring: Keyring,
  options: CallOptions = {},
): Promise<{ readonly identity: StoreIdentity; readonly roots: readonly Root[] }> {
  const identity = await readIdentity(store, options).catch(error => {
    if (isThawError(error, 'NOT_FOUND')) return createIdentity(store, keyring, options)
    throw error
  })
  await requireKinship(store, identity, keyring)
  const roots = await listRoots(store, options)
  return { identity, roots: roots.length > 0 ? roots : [await makeRoot(store, firstRootId(identity.storeId), options)] }
}

/** Makes a new active root. */
export async function createRoot(store: ObjectStore, options: CallOptions = {}): Promise<Root> {
  return makeRoot(store, randomBytes(8).toString('hex'), options)
}

/** All roots: active, retired, expired, the newest of each first. That is the order in which to look a snapshot up. */
export async function listRoots(store: ObjectStore, options: CallOptions = {}): Promise<readonly Root[]> {
  const roots: Root[] = []
  for await (const id of store.listFolders(ROOTS_PREFIX, options)) {
    const root = SHORT_ID.test(id) ? await readRoot(store, id, options) : undefined
    if (root !== undefined) roots.push(root)
  }
  return roots.sort(byLookup)
}

/** A root, or undefined if there is none of that id, or it is being made or deleted. */
export async function readRoot(store: ObjectStore, id: string, options: CallOptions = {}): Promise<Root | undefined> {
  const current = await readRootState(store, id, options)
  if (current === undefined) return undefined
  const root = await readRootDocument(store, id, options)
  return { ...root, current }
}

/** The newest state of a root, from the store itself; undefined if it has none. */
export async function readRootState(store: ObjectStore, id: string, options: CallOptions = {}): Promise<RootStateEntry | undefined> {
  const prefix = statePrefix(id)
  let newest = 0
  for await (const { key } of store.list(prefix, options)) newest = Math.max(newest, seqOfState(key, prefix) ?? 0)
  return newest === 0 ? undefined : readStateEntry(store, id, newest, options)
}

/**
 * Moves a root on from the state it was read in, durably. CONFLICT if it has moved meanwhile; RangeError for a step back.
 * @returns the new state.
 */
export async function advanceRoot(
  store: ObjectStore,
  from: RootStateEntry,
  state: RootState,
  options: CallOptions = {},
): Promise<RootStateEntry> {
  if (ROOT_STATES.indexOf(state) <= ROOT_STATES.indexOf(from.state)) throw new RangeError(`a root cannot go from ${from.state} to ${state}`)
  const entry = { root: from.root, seq: from.seq + 1, state, at: timestamp() }
  if (await putState(store, entry, options)) return entry
  throw new ThawError('CONFLICT', `root ${from.root} is no longer as it was read (${from.state})`, {
    object: stateKey(from.root, entry.seq),
  })
}

interface RootDocument {
  readonly id: string
  readonly createdAt: string
  readonly salt: Uint8Array
  readonly profile: SealingProfile
}

async function makeRoot(store: ObjectStore, id: string, options: CallOptions): Promise<Root> {
  const fresh: RootDocument = { id, createdAt: timestamp(), salt: Uint8Array.from(randomBytes(SALT_BYTES)), profile: SEALING_PROFILE }
  const first = await store.putIfAbsent(rootKey(id), encodeDocument(ROOT_SCHEMA, fresh), options)
  const root = first ? fresh : await readRootDocument(store, id, options)
  const entry: RootStateEntry = { root: id, seq: 1, state: 'active', at: timestamp() }
  const current = (await putState(store, entry, options)) ? entry : await readRootState(store, id, options)
  // A rival made the state, and the root was deleted before it could be read.
  if (current === undefined) throw new ThawError('CONFLICT', `root ${id} was deleted while it was made`, { object: rootKey(id) })
  return { ...root, current }
}

async function putState(store: ObjectStore, entry: RootStateEntry, options: CallOptions): Promise<boolean> {
  return store.putIfAbsent(stateKey(entry.root, entry.seq), encodeDocument(STATE_SCHEMA, entry), options)
}

async function readRootDocument(store: ObjectStore, id: string, options: CallOptions): Promise<RootDocument> {
  const key = rootKey(id)
  const root = await readDocument(store, key, ROOT_SCHEMA, options)
  return root.id === id ? root : misplaced(key)
}

async function readStateEntry(store: ObjectStore, id: string, seq: number, options: CallOptions): Promise<RootStateEntry> {
  const key = stateKey(id, seq)
  const entry = await readDocument(store, key, STATE_SCHEMA, options)
  return entry.root === id && entry.seq === seq ? entry : misplaced(key)
}

function misplaced(key: string): never {
  throw new ThawError('CORRUPT', `${key} holds the document of another root or number`, { object: key, tier: 'origin' })
}

function firstRootId(storeId: string): string {
  return toHex(createHash('sha256').update(`thaw-root-1${storeId}`).digest().subarray(0, 8))
}

function byLookup(a: Root, b: Root): number {
  const byState = ROOT_STATES.indexOf(a.current.state) - ROOT_STATES.indexOf(b.current.state)
  return byState || Date.parse(b.createdAt) - Date.parse(a.createdAt) || (a.id < b.id ? -1 : 1)
}

const ROOT_SCHEMA: DocumentSchema<RootDocument> = {
  encode: ({ id, createdAt, salt, profile: { codec, level, zstd } }) => ({
    version: 1,
    root: id,
    createdAt,
    salt: toHex(salt),
    profile: { codec, level, zstd },
  }),
  decode: members => {
    members.version(1)
    const profile = members.object('profile')
    return {
      id: members.text('root', SHORT_ID),
      createdAt: members.time('createdAt'),
      salt: members.hex('salt', SALT_BYTES),
      profile: {
        codec: profile.text('codec', PROFILE_TEXT),
        level: profile.integer('level', -(2 ** 31), 2 ** 31),
        zstd: profile.text('zstd', PROFILE_TEXT),
      },
    }
  },
}

const STATE_SCHEMA: DocumentSchema<RootStateEntry> = {
  encode: ({ root, seq, state, at }) => ({ version: 1, root, seq, state, at }),
  decode: members => {
    members.version(1)
    return {
      root: members.text('root', SHORT_ID),
      seq: members.integer('seq', 1, STATE_SEQ_MAX),
      state: members.oneOf('state', ROOT_STATES),
      at: members.time('at'),
    }
  },
}
