/** Errors as they cross threads: a clone of an Error loses its class and its fields. */
import { type ErrorCode, ThawError, type Tier } from '../errors.ts'

/** Plain data. */
export interface Failure {
  /** Undefined: not a ThawError. */
  readonly code: ErrorCode | undefined
  readonly name: string
  readonly message: string
  /** Of a bug. */
  readonly stack: string | undefined
  readonly object: string | undefined
  readonly tier: Tier | undefined
  readonly cause: Failure | undefined
}

export function failureOf(error: unknown): Failure {
  const cause = error instanceof Error && error.cause !== undefined ? failureOf(error.cause) : undefined
  if (error instanceof ThawError) {
    const { code, name, message, object, tier } = error
    return { code, name, message, stack: undefined, object, tier, cause }
  }
  const { name, message, stack } = error instanceof Error ? error : { name: 'Error', message: String(error), stack: undefined }
  return { code: undefined, name, message, stack, object: undefined, tier: undefined, cause }
}

/** The error again: a ThawError, a TypeError, a RangeError; anything else was a bug, and is an Error that says where. `thread` names where it happened. */
export function errorOf({ code, name, message, stack, object, tier, cause }: Failure, thread: string): Error {
  const options = cause && { cause: errorOf(cause, thread) }
  if (code !== undefined)
    return new ThawError(code, message, { ...options, ...(object !== undefined && { object }), ...(tier && { tier }) })
  if (name === 'TypeError') return new TypeError(message, options)
  if (name === 'RangeError') return new RangeError(message, options)
  return new Error(`in ${thread}: ${stack ?? `${name}: ${message}`}`, options)
}
