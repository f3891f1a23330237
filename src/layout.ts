/**
 * Where things lie in a store (docs/FORMAT.md section 2). Every key that thaw reads or writes is made here.
 *
 * Arguments are ids and names that were checked where they came in (`names.ts`, the codecs): nothing here escapes or validates, except that
 * a tag's name becomes one segment.
 */
import { encodeTagName, type TagName } from './names.ts'

const STATE_SEQ_DIGITS = 8
const TAG_SEQ_DIGITS = 12

export const STATE_SEQ_MAX: number = 10 ** STATE_SEQ_DIGITS - 1
export const TAG_SEQ_MAX: number = 10 ** TAG_SEQ_DIGITS - 1

export const STORE_KEY = 'store.json'
export const ROOTS_PREFIX = 'roots/'
export const TAGS_PREFIX = 'tags/'

/** The folder of the platform's tags; no tenant's name starts with `_`. */
export const PLATFORM_FOLDER = '_'

/** `roots/5e3b1c0a9f8d7e6c/` */
export function rootPrefix(root: string): string {
  return `${ROOTS_PREFIX}${root}/`
}

/** `roots/5e3b1c0a9f8d7e6c/root.json` */
export function rootKey(root: string): string {
  return `${rootPrefix(root)}root.json`
}

/** `roots/5e3b1c0a9f8d7e6c/state/` */
export function statePrefix(root: string): string {
  return `${rootPrefix(root)}state/`
}

/** `roots/5e3b1c0a9f8d7e6c/state/00000001` */
export function stateKey(root: string, seq: number): string {
  return statePrefix(root) + String(seq).padStart(STATE_SEQ_DIGITS, '0')
}

/** `roots/5e3b1c0a9f8d7e6c/chunks/0a1b2c3d4e5f6071/` */
export function chunksPrefix(root: string, domain: string): string {
  return `${rootPrefix(root)}chunks/${domain}/`
}

/** `roots/5e3b1c0a9f8d7e6c/chunks/0a1b2c3d4e5f6071/e3/e3b0c442…` */
export function chunkKey(root: string, domain: string, id: string): string {
  return `${chunksPrefix(root, domain)}${id.slice(0, 2)}/${id}`
}

/** `roots/5e3b1c0a9f8d7e6c/manifests/` */
export function manifestsPrefix(root: string): string {
  return `${rootPrefix(root)}manifests/`
}

/** `roots/5e3b1c0a9f8d7e6c/manifests/e3b0c442…` */
export function manifestKey(root: string, id: string): string {
  return manifestsPrefix(root) + id
}

/** `roots/5e3b1c0a9f8d7e6c/keys/e3b0c442…` */
export function wrappedKeysKey(root: string, id: string): string {
  return `${rootPrefix(root)}keys/${id}`
}

/** `tags/acme/`, `tags/_/` for the platform */
export function tenantTagsPrefix(tenant: string | undefined): string {
  return `${TAGS_PREFIX}${tenant ?? PLATFORM_FOLDER}/`
}

/** `tags/acme/resize%3A7/` */
export function tagPrefix(tag: TagName): string {
  return `${tenantTagsPrefix(tag.tenant)}${encodeTagName(tag.name)}/`
}

/** `tags/acme/resize%3A7/000000000003` */
export function tagKey(tag: TagName, seq: number): string {
  return tagPrefix(tag) + String(seq).padStart(TAG_SEQ_DIGITS, '0')
}

/** The number at the end of a state's key under its prefix, or undefined if what lies there is no state. */
export function seqOfState(key: string, prefix: string): number | undefined {
  return seqOf(key.slice(prefix.length), STATE_SEQ_DIGITS)
}

/** The same for a tag's entry. */
export function seqOfTag(key: string, prefix: string): number | undefined {
  return seqOf(key.slice(prefix.length), TAG_SEQ_DIGITS)
}

function seqOf(digits: string, length: number): number | undefined {
  const seq = digits.length === length && /^\d+$/.test(digits) ? Number(digits) : 0
  return seq > 0 ? seq : undefined
}
