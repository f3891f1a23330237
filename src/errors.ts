/**
 * The one error of thaw. Code decides what to do by `code`, people by `message`, which is one line: what, which object, what to do.
 *
 * Wrong arguments are TypeError or RangeError, bugs are assertions, and a cancelled call rethrows `signal.reason`: none of these is a
 * ThawError. A cache miss is `undefined`, not an error.
 */
import { constants } from 'node:os'
import { getSystemErrorMap } from 'node:util'

/**
 * | code | means |
 * |---|---|
 * | NOT_FOUND | no such object, tag, snapshot, image or file |
 * | CORRUPT | bytes are not the ones that were stored: names the object and the tier that served it |
 * | WRONG_KEY | the keyring lacks the key or secret, or it does not fit |
 * | BAD_FORMAT | bytes were read as stored but are not what the format allows, or of a version this build does not know |
 * | UNAVAILABLE | the store cannot be reached or answers with a server error: the only retryable code |
 * | TIMEOUT | a deadline passed |
 * | CONFLICT | someone else changed it first; or a file changed while it was read |
 * | CLOSED | used after `close()` |
 * | DENIED | credentials or permissions do not allow it, or the file system is read-only |
 * | NO_SPACE | the disk or the quota is full |
 * | UNSUPPORTED | the provider, platform or build lacks something thaw needs |
 */
export type ErrorCode =
  | 'NOT_FOUND'
  | 'CORRUPT'
  | 'WRONG_KEY'
  | 'BAD_FORMAT'
  | 'UNAVAILABLE'
  | 'TIMEOUT'
  | 'CONFLICT'
  | 'CLOSED'
  | 'DENIED'
  | 'NO_SPACE'
  | 'UNSUPPORTED'

/** Where bytes came from: the authoritative store, or a cache in front of it. */
export type Tier = 'memory' | 'disk' | 'l2' | 'origin'

export interface ThawErrorOptions extends ErrorOptions {
  /** What the error is about: an object key, snapshot id, tag or path. */
  readonly object?: string
  /** For every error of a read: the tier that failed, or served bad bytes. */
  readonly tier?: Tier
}

export class ThawError extends Error {
  override readonly name = 'ThawError'
  readonly code: ErrorCode
  readonly object: string | undefined
  readonly tier: Tier | undefined

  constructor(code: ErrorCode, message: string, options: ThawErrorOptions = {}) {
    super(message, options)
    this.code = code
    this.object = options.object
    this.tier = options.tier
  }

  /**
   * Whether the same call may succeed later with nothing changed by the caller. Not TIMEOUT: that was the
   * caller's deadline. What is asked again within one is util/retry.ts's rule.
   */
  get retryable(): boolean {
    return this.code === 'UNAVAILABLE'
  }
}

/** True for a ThawError, of one of the codes if any are given. */
export function isThawError(error: unknown, ...codes: readonly ErrorCode[]): error is ThawError {
  return error instanceof ThawError && (codes.length === 0 || codes.includes(error.code))
}

/** An error with the tier it is of: a ThawError that names none is the cause of one that does; every other error stays as it is. */
export function withTier(error: unknown, tier: Tier): unknown {
  if (!isThawError(error) || error.tier !== undefined) return error
  const { code, message, object } = error
  return new ThawError(code, message, { cause: error, tier, ...(object !== undefined && { object }) })
}

const CODE_OF_ERRNO: Readonly<Record<string, ErrorCode>> = {
  ENOENT: 'NOT_FOUND',
  ENOTDIR: 'NOT_FOUND',
  EACCES: 'DENIED',
  EPERM: 'DENIED',
  EROFS: 'DENIED',
  ENOSPC: 'NO_SPACE',
  EDQUOT: 'NO_SPACE',
  EFBIG: 'NO_SPACE',
}

/** "EDQUOT". libuv names fewer errors than the system has: it calls this one "Unknown system error -122". */
export function errnoName(errno: number): string {
  const [known] = getSystemErrorMap().get(-errno) ?? []
  return known ?? Object.entries(constants.errno).find(([, number]) => number === errno)?.[0] ?? `errno ${errno}`
}

/**
 * A file system error as a ThawError: `what` says what was tried ("cannot read image memory"), `object` is the path. Errors of
 * other kinds are returned as they are. Unlisted errno values (EIO, EMFILE, …) become UNAVAILABLE.
 */
export function fromErrno(error: unknown, what: string, object: string): unknown {
  if (!(error instanceof Error) || !('code' in error) || typeof error.code !== 'string' || !('syscall' in error)) return error
  const isNamed = !error.code.startsWith('Unknown system error')
  const name = isNamed || !('errno' in error) ? error.code : errnoName(-Number(error.errno))
  return new ThawError(CODE_OF_ERRNO[name] ?? 'UNAVAILABLE', `${what}: ${object}: ${name}`, { cause: error, object })
}
