/** Options of front ends, judged in one way. */

/** Ids of users and groups; the highest means "unchanged" to chown(2). */
export const ID_MAX: number = 2 ** 32 - 2
export const MODE_MAX = 0o777
/** What a client may take for its handshake, unless it is said otherwise; and the most that timers take. */
export const HANDSHAKE_TIMEOUT_MS = 10_000
export const TIMEOUT_MS_MAX: number = 2 ** 31 - 1

/** @throws RangeError if it is given and not a whole number in [min, max] */
export function checkWhole(name: string, value: number | undefined, min: number, max: number): void {
  if (value !== undefined && !(Number.isInteger(value) && value >= min && value <= max)) {
    throw new RangeError(`${name} is ${value}: not a whole number from ${min} to ${max}`)
  }
}

/** @throws RangeError for an owner or permission bits that cannot be */
export function checkOwner({
  uid,
  gid,
  mode,
}: {
  readonly uid?: number | undefined
  readonly gid?: number | undefined
  readonly mode?: number | undefined
}): void {
  checkWhole('uid', uid, 0, ID_MAX)
  checkWhole('gid', gid, 0, ID_MAX)
  checkWhole('mode', mode, 0, MODE_MAX)
}

/** @throws TypeError */
export function checkPath(name: string, path: unknown): void {
  if (typeof path !== 'string' || path === '' || path.includes('\0')) throw new TypeError(`${name} is not a path`)
}
