/** A failed call of `native.ts` as an error of the kind that Node throws, so that one table (errors.ts) reads both. */
import { errnoName } from '../errors.ts'
import type { Native } from './native.ts'

/** @param call the C function that has just returned -1. @returns an error with `code` ("ENOENT"), `errno` and `syscall` */
export function systemError(native: Pick<Native, 'errno'>, call: string): NodeJS.ErrnoException {
  return systemErrorOf(native.errno(), call)
}

/** The same of a number that came from elsewhere. */
export function systemErrorOf(errno: number, call: string): NodeJS.ErrnoException {
  const code = errnoName(errno)
  return Object.assign(new Error(`${code}: ${call}`), { code, errno: -errno, syscall: call })
}
