/** Tags: signed entries, the highest of which counts (FORMAT.md, section 8). */
import { ascii, fromBase64 } from './bytes.ts'
import { ed25519Verify } from './crypto.ts'
import { asHex, asTime, parseSignedDocument } from './documents.ts'
import { FormatError, refuse } from './errors.ts'
import { isTagName, isTenant } from './names.ts'
import { type Files, type List, readExisting } from './store.ts'

export interface Tag {
  seq: number
  /** Null for a tombstone: the tag is deleted. */
  snapshot: string | null
  /** Where the snapshot lay when it was tagged; a hint. */
  root: string | null
  at: string
  signer: string
}

const MEMBERS = ['version', 'store', 'tenant', 'name', 'seq', 'snapshot', 'root', 'at', 'nonce', 'signer']

/** Gives the entry that counts, or undefined for a tag that has none. `publicKeys` are raw Ed25519 keys by signer. */
export async function readTag(
  files: Files,
  list: List,
  storeId: string,
  tenant: string | null,
  name: string,
  publicKeys: ReadonlyMap<string, Uint8Array>,
): Promise<Tag | undefined> {
  refuse(tenant !== null && !isTenant(tenant), 'not a name of a tenant')
  refuse(!isTagName(name), 'not a name of a tag')
  const folder = `tags/${tenant ?? '_'}/${encodeURIComponent(name)}/`
  const entries = (await list(folder)).filter(key => /^[0-9]{12}$/.test(key.slice(folder.length))).sort()
  const key = entries.at(-1)
  if (key === undefined) return undefined

  const { members, body, last } = parseSignedDocument(await readExisting(files, key), MEMBERS, key)
  const seq = Number(key.slice(folder.length))
  if (members.store !== storeId) throw new FormatError('CORRUPT', `${key}: of another store`)
  if (members.tenant !== tenant || members.name !== name || members.seq !== seq) {
    throw new FormatError('CORRUPT', `${key}: of another tenant, name or seq than where it lies`)
  }
  asHex(members.nonce, 16, `${key}: nonce`)
  const signer = asHex(members.signer, 16, `${key}: signer`)
  const publicKey = publicKeys.get(signer)
  if (publicKey === undefined) throw new FormatError('NO_KEY', `${key}: signed by ${signer}, who is not known`)
  const signature = fromBase64(last)
  if (signature.length !== 64 || !(await ed25519Verify(publicKey, signature, ascii(`thaw-tag-1\n${body}`)))) {
    throw new FormatError('CORRUPT', `${key}: the signature does not verify`)
  }
  return {
    seq,
    snapshot: members.snapshot === null ? null : asHex(members.snapshot, 64, `${key}: snapshot`),
    root: members.root === null ? null : asHex(members.root, 16, `${key}: root`),
    at: asTime(members.at, `${key}: at`),
    signer,
  }
}
