/**
 * One entry of a tag: the signed document, how it is made and what is checked before anyone may rely on it (docs/FORMAT.md section 8).
 *
 * No two entries are equal: each has a random nonce. Put-if-absent takes equal bytes for a write of one's own whose answer was lost, so of two
 * processes that move a tag to one snapshot in the same millisecond both would have won.
 */
import { randomBytes } from 'node:crypto'
import { type DocumentSchema, decodeLine, encodeLine } from '../document.ts'
import { ThawError } from '../errors.ts'
import type { Keyring } from '../keys.ts'
import { TAG_SEQ_MAX, tagKey } from '../layout.ts'
import { formatTagName, ID, SHORT_ID, STORE_ID, TAG_NAME, type TagName, TENANT_NAME } from '../names.ts'
import { toBase64 } from '../util/encoding.ts'

const SIGNATURE_BYTES = 64
/** One attempt learns which key signs, the second uses its id; a third is for a rotation between them. */
const SIGNING_ATTEMPTS_MAX = 3
const NO_SIGNER = '0'.repeat(16)
const NONCE_BYTES = 8

export interface TagEntry extends TagName {
  readonly seq: number
  /** The snapshot's id; undefined: the tag was deleted. */
  readonly snapshot: string | undefined
  /** Where the snapshot lay when the entry was written: a hint. */
  readonly root: string
  /** RFC 3339. */
  readonly at: string
  /** The key that signed, 16 hex digits. */
  readonly signer: string
}

/**
 * The bytes of an entry, signed with the keyring's newest key. `signer` is a guess at its id, which is part of what is signed: a wrong
 * one costs another signature. WRONG_KEY for a worker's keyring.
 */
export async function signTagEntry(
  keyring: Keyring,
  storeId: string,
  unsigned: Omit<TagEntry, 'signer'>,
  signer: string = NO_SIGNER,
): Promise<{ readonly entry: TagEntry; readonly bytes: Uint8Array }> {
  const nonce = randomBytes(NONCE_BYTES).toString('hex')
  let guess = signer
  for (let attempt = 1; attempt <= SIGNING_ATTEMPTS_MAX; attempt++) {
    const stored = { ...unsigned, signer: guess, storeId, nonce }
    const { keyId, signature } = await keyring.sign(signedBytes(stored))
    if (keyId === guess) return { entry: { ...unsigned, signer: guess }, bytes: encodeLine(SCHEMA, { ...stored, signature }) }
    guess = keyId
  }
  throw new ThawError('CONFLICT', `the signing key of ${keyring.name} changes faster than it can be used`, { object: keyring.name })
}

/** The entry under the key of `tag` and `seq`. CORRUPT: it is another tag's or store's, or not signed by a key of the keyring. BAD_FORMAT: it is no entry. */
export async function openTagEntry(keyring: Keyring, storeId: string, tag: TagName, seq: number, bytes: Uint8Array): Promise<TagEntry> {
  const key = tagKey(tag, seq)
  const { signature, storeId: foundIn, nonce, ...entry } = decodeLine(SCHEMA, bytes, key)
  if (entry.tenant !== tag.tenant || entry.name !== tag.name || entry.seq !== seq)
    refuse(tag, key, 'its entry belongs to another tag or number')
  if (foundIn !== storeId) refuse(tag, key, 'its entry belongs to another store')
  if (!(await keyring.verify(signedBytes({ ...entry, storeId, nonce }), { keyId: entry.signer, signature }))) {
    refuse(tag, key, `no key of ${keyring.name} signed its entry (signer ${entry.signer})`)
  }
  return entry
}

interface StoredEntry extends TagEntry {
  readonly storeId: string
  readonly nonce: string
}

interface SignedEntry extends StoredEntry {
  readonly signature: Uint8Array
}

function membersOf({ storeId, tenant, name, seq, snapshot, root, at, nonce, signer }: StoredEntry) {
  return { version: 1, store: storeId, tenant: tenant ?? null, name, seq, snapshot: snapshot ?? null, root, at, nonce, signer }
}

function signedBytes(entry: StoredEntry): Uint8Array {
  return Buffer.from(`thaw-tag-1\n${JSON.stringify(membersOf(entry))}`)
}

function refuse(tag: TagName, object: string, why: string): never {
  throw new ThawError('CORRUPT', `tag ${formatTagName(tag)} cannot be trusted: ${why}`, { object, tier: 'origin' })
}

const SCHEMA: DocumentSchema<SignedEntry> = {
  encode: entry => ({ ...membersOf(entry), signature: toBase64(entry.signature) }),
  decode: members => {
    members.version(1)
    return {
      storeId: members.text('store', STORE_ID),
      tenant: members.textOrNull('tenant', TENANT_NAME),
      name: members.text('name', TAG_NAME),
      seq: members.integer('seq', 1, TAG_SEQ_MAX),
      snapshot: members.textOrNull('snapshot', ID),
      root: members.text('root', SHORT_ID),
      at: members.time('at'),
      nonce: members.text('nonce', SHORT_ID),
      signer: members.text('signer', SHORT_ID),
      signature: members.base64('signature', SIGNATURE_BYTES),
    }
  },
}
