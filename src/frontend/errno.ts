/** What a guest is told when its bytes cannot be had or written: one table for all front ends. Numbers are those of Linux; those used here are NBD's errors too. */
import type { ErrorCode } from '../errors.ts'
import { ERRNO } from '../util/native.ts'

/** What is not listed is EIO: a guest cannot do anything about it, and a time-out that it was told of it would not try again. */
const ERRNO_OF_CODE: Partial<Readonly<Record<ErrorCode, number>>> = {
  NO_SPACE: ERRNO.ENOSPC,
  // Of the store's credentials. That an image is read-only is known before, and has an error of its own in each protocol.
  DENIED: ERRNO.EPERM,
}

/** @param code undefined: a bug */
export function errnoOf(code: ErrorCode | undefined): number {
  return (code !== undefined && ERRNO_OF_CODE[code]) || ERRNO.EIO
}
