/**
 * Names that people choose (images, labels, tenants, tags), and references to snapshots made of them (docs/FORMAT.md sections 6 and 8).
 *
 * A bad name is a wrong argument: RangeError, with the name as JSON so that a control character in it shows and cannot act on a terminal.
 * Names read from a store are held to the same patterns by the codecs, which answer BAD_FORMAT.
 */

export const IMAGE_NAME: RegExp = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/
export const LABEL_NAME: RegExp = /^[A-Za-z0-9][A-Za-z0-9._/-]{0,63}$/
export const TENANT_NAME: RegExp = /^[a-z0-9][a-z0-9._-]{0,63}$/
export const TAG_NAME: RegExp = /^[a-z0-9][a-z0-9._/:-]{0,127}$/
export const LABEL_VALUE_BYTES_MAX = 256

/** 64 hex digits: a snapshot's or a chunk's id. */
export const ID: RegExp = /^[0-9a-f]{64}$/
/** 16 hex digits: a root, a domain, or the id of a key. */
export const SHORT_ID: RegExp = /^[0-9a-f]{16}$/
/** 32 hex digits: a store. */
export const STORE_ID: RegExp = /^[0-9a-f]{32}$/

const ID_OR_PREFIX = /^[0-9a-f]{8,64}$/
const TENANT_SEPARATOR = '//'

/** File systems take names of up to 255 bytes, and a tag's encoded name is a folder of a directory store. */
const TAG_SEGMENT_BYTES_MAX = 255

/** A tag as people name it: of a tenant, or (undefined) of the platform. */
export interface TagName {
  readonly tenant: string | undefined
  readonly name: string
}

/** What a user may write to mean a snapshot. `tenant` undefined: look among the platform's tags first, then among those of known tenants. */
export type Ref =
  | { readonly kind: 'id'; readonly id: string }
  | { readonly kind: 'prefix'; readonly prefix: string }
  | ({ readonly kind: 'tag' } & TagName)

export function checkImageName(name: string): void {
  check(IMAGE_NAME.test(name), 'an image name', name, 'up to 64 letters, digits, ".", "_" and "-", the first a letter or digit')
}

export function checkLabel(name: string, value: string): void {
  check(LABEL_NAME.test(name), 'a label name', name, 'up to 64 letters, digits, ".", "_", "/" and "-", the first a letter or digit')
  const printable = value.isWellFormed() && !/\p{Cc}/u.test(value)
  check(
    printable && Buffer.byteLength(value) <= LABEL_VALUE_BYTES_MAX,
    'a label value',
    value,
    `up to ${LABEL_VALUE_BYTES_MAX} bytes, no control characters`,
  )
}

export function checkTenantName(name: string): void {
  check(TENANT_NAME.test(name), 'a tenant name', name, 'up to 64 of a-z, 0-9, ".", "_" and "-", the first a letter or digit')
}

export function checkTagName(name: string): void {
  const wanted = 'up to 128 of a-z, 0-9, ".", "_", "/", ":" and "-", the first a letter or digit'
  const but = 'not 8 to 64 hex digits (an id), without "//" (it follows a tenant), at most 255 bytes with "/" and ":" counting three'
  check(isTagName(name), 'a tag', name, `${wanted}; ${but}`)
}

/** A tag's name as one segment of a key: `a/b` is `a%2Fb`. */
export function encodeTagName(name: string): string {
  return encodeURIComponent(name)
}

/** The tag's name for a segment of a key, or undefined if no tag is stored under that segment. */
export function decodeTagName(segment: string): string | undefined {
  const name = segment.replaceAll('%2F', '/').replaceAll('%3A', ':')
  return isTagName(name) && encodeTagName(name) === segment ? name : undefined
}

/** `acme//resize:7` for a tenant's tag, `resize:7` for the platform's. */
export function formatTagName(tag: TagName): string {
  return tag.tenant === undefined ? tag.name : `${tag.tenant}${TENANT_SEPARATOR}${tag.name}`
}

/** An id, a prefix of one with at least 8 digits, a tag, or `TENANT//TAG`. RangeError for anything else. */
export function parseRef(text: string): Ref {
  if (ID.test(text)) return { kind: 'id', id: text }
  if (ID_OR_PREFIX.test(text)) return { kind: 'prefix', prefix: text }
  const separatorAt = text.indexOf(TENANT_SEPARATOR)
  const tenant = separatorAt < 0 ? undefined : text.slice(0, separatorAt)
  const name = separatorAt < 0 ? text : text.slice(separatorAt + TENANT_SEPARATOR.length)
  if (tenant !== undefined) checkTenantName(tenant)
  checkTagName(name)
  return { kind: 'tag', tenant, name }
}

function isTagName(name: string): boolean {
  if (!TAG_NAME.test(name) || ID_OR_PREFIX.test(name) || name.includes(TENANT_SEPARATOR)) return false
  return encodeTagName(name).length <= TAG_SEGMENT_BYTES_MAX
}

function check(fine: boolean, what: string, name: string, wanted: string): void {
  if (!fine) throw new RangeError(`${JSON.stringify(name)} is not ${what}: ${wanted}`)
}
