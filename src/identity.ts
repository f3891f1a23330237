/**
 * `store.json`: which store this is, and by which keyring it was made (docs/FORMAT.md section 3).
 *
 * Written once, by whoever's put-if-absent comes first, and never changed. Everyone who opens a store compares the check values with the
 * keyring at hand, so that nobody publishes under secrets that the store's other publishers do not have.
 */
import { randomBytes } from 'node:crypto'
import { type DocumentSchema, encodeDocument, readDocument, timestamp } from './document.ts'
import { isThawError, ThawError } from './errors.ts'
import { type Keyring, LAYERS } from './keys.ts'
import { STORE_KEY } from './layout.ts'
import { SHORT_ID, STORE_ID } from './names.ts'
import type { CallOptions, ObjectStore } from './store.ts'

const STORE_ID_BYTES = 16
const CHECK_VALUE = /^[0-9a-f]{32}$/

export interface StoreIdentity {
  /** 32 hex digits, random. */
  readonly storeId: string
  /** RFC 3339. */
  readonly createdAt: string
  /** Domain → check value of its first secret, in the order os, runtime, function. */
  readonly domains: ReadonlyMap<string, string>
}

/** What the store is. NOT_FOUND, with the advice to run `thaw init`, if nobody made it one. */
export async function readIdentity(store: ObjectStore, options: CallOptions = {}): Promise<StoreIdentity> {
  try {
    return await readDocument(store, STORE_KEY, SCHEMA, options)
  } catch (error) {
    // A bucket that is not there says so itself.
    if (!isThawError(error, 'NOT_FOUND') || !error.object?.endsWith(STORE_KEY)) throw error
    throw new ThawError('NOT_FOUND', `${store.url} is not a store yet: make it one with \`thaw init\``, { cause: error, object: STORE_KEY })
  }
}

/** Makes it a store, or finds what another made it meanwhile: compare that with the keyring. WRONG_KEY for a worker's keyring. */
export async function createIdentity(store: ObjectStore, keyring: Keyring, options: CallOptions = {}): Promise<StoreIdentity> {
  const storeId = randomBytes(STORE_ID_BYTES).toString('hex')
  const identity = { storeId, createdAt: timestamp(), domains: await keyring.checkValues(storeId) }
  const first = await store.putIfAbsent(STORE_KEY, encodeDocument(SCHEMA, identity), options)
  return first ? identity : readIdentity(store, options)
}

/** WRONG_KEY if the keyring has secrets and they are another store's. A worker's keyring, which has none, passes. */
export async function requireKinship(store: ObjectStore, identity: StoreIdentity, keyring: Keyring): Promise<void> {
  if ((await keyring.kinship(identity.storeId, identity.domains)) !== 'other') return
  const advice = 'use the keyring it was made with, or another store'
  throw new ThawError('WRONG_KEY', `${keyring.name} belongs to another store than ${store.url}: ${advice}`, { object: STORE_KEY })
}

const SCHEMA: DocumentSchema<StoreIdentity> = {
  encode: ({ storeId, createdAt, domains }) => ({ version: 1, store: storeId, createdAt, domains: Object.fromEntries(domains) }),
  decode: members => {
    members.version(1)
    const domains = members.object('domains')
    const names = domains.names(SHORT_ID)
    if (names.length !== LAYERS.length) members.refuse('it does not have a check value for each layer')
    return {
      storeId: members.text('store', STORE_ID),
      createdAt: members.time('createdAt'),
      domains: new Map(names.map(domain => [domain, domains.text(domain, CHECK_VALUE)])),
    }
  },
}
