/** What names may look like (FORMAT.md, sections 6 and 8). */
const IMAGE = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/
const LABEL = /^[A-Za-z0-9][A-Za-z0-9._/-]{0,63}$/
const TENANT = /^[a-z0-9][a-z0-9._-]{0,63}$/
const TAG = /^[a-z0-9][a-z0-9._:/-]{0,127}$/

export const isImageName = (name: string): boolean => IMAGE.test(name)
export const isLabelName = (name: string): boolean => LABEL.test(name)
export const isTenant = (name: string): boolean => TENANT.test(name)
/** A tag that looks like the beginning of an id could be taken for one. */
export const isTagName = (name: string): boolean => TAG.test(name) && !/^[0-9a-f]{8,64}$/.test(name)

/** 256 bytes of UTF-8, no character of Unicode's category Cc. */
export function isLabelValue(value: string): boolean {
  return new TextEncoder().encode(value).length <= 256 && !/\p{Cc}/u.test(value)
}
