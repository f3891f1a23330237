/**
 * Wrapped data keys (docs/FORMAT.md section 7): one data key, sealed under a tenant's or the platform's key, and the document `keys/<id>` that
 * lists it for each key that may open it.
 *
 * The IV is random: a wrapping key seals one data key a snapshot, far below the 2³² at which random IVs of 12 bytes become a concern.
 * The snapshot's and the key's id are additional data, so that a wrapped key cannot be moved to another snapshot.
 */
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto'
import { type DocumentSchema, decodeDocument, encodeDocument } from '../document.ts'
import { ThawError } from '../errors.ts'
import type { WrappedKey } from '../keys.ts'
import { ID, SHORT_ID } from '../names.ts'
import { toBase64, toHex } from '../util/encoding.ts'

export const DATA_KEY_BYTES = 32

const IV_BYTES = 12
const TAG_BYTES = 16
const WRAPPED_BYTES: number = IV_BYTES + DATA_KEY_BYTES + TAG_BYTES

/** The key that wraps, with its name. */
export interface WrappingKey {
  /** 16 hex digits. */
  readonly id: string
  /** AES-256, 32 bytes. */
  readonly key: Uint8Array
}

/** Wraps a 32-byte data key for a snapshot (its id as 32 bytes). */
export function wrapDataKey(dataKey: Uint8Array, snapshotId: Uint8Array, { id, key }: WrappingKey): WrappedKey {
  if (dataKey.length !== DATA_KEY_BYTES) throw new RangeError(`a data key has ${DATA_KEY_BYTES} bytes, not ${dataKey.length}`)
  const iv = randomBytes(IV_BYTES)
  const cipher = createCipheriv('aes-256-gcm', key, iv).setAAD(boundTo(snapshotId, id))
  const wrapped = Uint8Array.from(Buffer.concat([iv, cipher.update(dataKey), cipher.final(), cipher.getAuthTag()]))
  return { keyId: id, algorithm: 'A256GCM', wrapped }
}

/** The data key, in memory of its own; undefined if it was wrapped for another snapshot or under another key, or was changed. */
export function unwrapDataKey({ wrapped }: WrappedKey, snapshotId: Uint8Array, { id, key }: WrappingKey): Uint8Array | undefined {
  if (wrapped.length !== WRAPPED_BYTES) return undefined
  const decipher = createDecipheriv('aes-256-gcm', key, wrapped.subarray(0, IV_BYTES), { authTagLength: TAG_BYTES })
  decipher.setAAD(boundTo(snapshotId, id)).setAuthTag(wrapped.subarray(-TAG_BYTES))
  const dataKey = decipher.update(wrapped.subarray(IV_BYTES, -TAG_BYTES))
  try {
    decipher.final()
  } catch {
    // OpenSSL's only reason to fail here is the tag, and it has nothing to say about why.
    return undefined
  }
  return Uint8Array.from(dataKey)
}

/** The document `keys/<id>`. RangeError if there is no key, one comes twice, or there are more than fit (about 450). */
export function encodeWrappedKeys(snapshotId: Uint8Array, keys: readonly WrappedKey[]): Uint8Array {
  if (keys.length === 0 || hasDuplicates(keys)) throw new RangeError('a snapshot has wrapped data keys, each for another key')
  return encodeDocument(SCHEMA, { snapshot: toHex(snapshotId), keys })
}

/** Reads `keys/<id>`; `object` names it in errors. CORRUPT: it is damaged or another snapshot's. BAD_FORMAT: all else. */
export function decodeWrappedKeys(bytes: Uint8Array, snapshotId: Uint8Array, object: string): readonly WrappedKey[] {
  const { snapshot, keys } = decodeDocument(SCHEMA, bytes, object)
  if (snapshot === toHex(snapshotId)) return keys
  throw new ThawError('CORRUPT', `${object} holds the keys of another snapshot, ${snapshot}`, { object, tier: 'origin' })
}

interface WrappedKeys {
  readonly snapshot: string
  readonly keys: readonly WrappedKey[]
}

const SCHEMA: DocumentSchema<WrappedKeys> = {
  encode: ({ snapshot, keys }) => ({
    version: 1,
    snapshot,
    keys: keys.map(({ keyId, algorithm, wrapped }) => ({ key: keyId, algorithm, wrapped: toBase64(wrapped) })),
  }),
  decode: members => {
    members.version(1)
    const snapshot = members.text('snapshot', ID)
    const keys = members.list('keys').map(
      (key): WrappedKey => ({
        keyId: key.text('key', SHORT_ID),
        algorithm: key.oneOf('algorithm', ['A256GCM']),
        wrapped: key.base64('wrapped', WRAPPED_BYTES),
      }),
    )
    if (keys.length === 0 || hasDuplicates(keys)) members.refuse('it lists no key, or one twice')
    return { snapshot, keys }
  },
}

function hasDuplicates(keys: readonly WrappedKey[]): boolean {
  return new Set(keys.map(({ keyId }) => keyId)).size < keys.length
}

function boundTo(snapshotId: Uint8Array, keyId: string): Buffer {
  return Buffer.concat([Buffer.from('thaw-wrap-1'), snapshotId, Buffer.from(keyId)])
}
