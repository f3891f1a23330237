/** Sizes as people write them: `512M` and `512MiB` are 536870912 bytes, `1.5G` is one and a half GiB; a number alone is bytes. Powers of 1024 throughout. */

const SIZE = /^(\d+(?:\.\d+)?)(?:([KMGT])(?:iB)?|B)?$/i
const EXPONENTS = ['', 'K', 'M', 'G', 'T']

/** For error messages. */
export const SIZE_FORMS = 'a size such as 512M, 512MiB, 1.5G or a number of bytes'

/** Whole bytes, or undefined if the text is no size. */
export function parseSize(text: string): number | undefined {
  const [, value, unit = ''] = SIZE.exec(text) ?? []
  if (value === undefined) return undefined
  const bytes = Math.round(Number(value) * 1024 ** EXPONENTS.indexOf(unit.toUpperCase()))
  return Number.isSafeInteger(bytes) ? bytes : undefined
}
