/** Errors of the system, by whichever name or number they come. */
import { constants } from 'node:os'
import { describe, expect, it } from 'vitest'
import { type ErrorCode, fromErrno, isThawError } from '../src/errors.ts'
import { errnoOf } from '../src/frontend/errno.ts'
import { ERRNO } from '../src/util/native.ts'
import { systemErrorOf } from '../src/util/system-error.ts'

/** As node:fs throws it for an errno that libuv has a name for, or none. */
function nodeError(code: string, errno: number): Error {
  return Object.assign(new Error(`${code}: write`), { code, errno, syscall: 'write' })
}

function judged(error: unknown): { readonly code: ErrorCode; readonly message: string } {
  const thrown = fromErrno(error, 'cannot write', 'file')
  if (!isThawError(thrown)) throw new Error('not a ThawError')
  return { code: thrown.code, message: thrown.message }
}

describe('an error of the system', () => {
  it.each([
    ['ENOENT', 'NOT_FOUND'],
    ['EACCES', 'DENIED'],
    ['ENOSPC', 'NO_SPACE'],
    ['EAGAIN', 'UNAVAILABLE'],
    ['EIO', 'UNAVAILABLE'],
  ] as const)('%s is %s', (name, code) => {
    const errno = constants.errno[name]
    const expected = { code, message: `cannot write: file: ${name}` }
    expect(judged(nodeError(name, -errno))).toEqual(expected)
    expect(judged(systemErrorOf(errno, 'write'))).toEqual(expected)
  })

  it('that libuv has no name for is judged by its number', () => {
    const { EDQUOT, ESTALE } = constants.errno
    const full = { code: 'NO_SPACE', message: 'cannot write: file: EDQUOT' }
    expect(judged(nodeError(`Unknown system error -${EDQUOT}`, -EDQUOT))).toEqual(full)
    expect(judged(systemErrorOf(EDQUOT, 'write'))).toEqual(full)
    expect(judged(nodeError(`Unknown system error -${ESTALE}`, -ESTALE)).message).toBe('cannot write: file: ESTALE')
    expect(judged(nodeError('Unknown system error -4000', -4000))).toEqual({
      code: 'UNAVAILABLE',
      message: 'cannot write: file: errno 4000',
    })
  })

  it('that means a full disk is that to the guest too', () => {
    expect(errnoOf('NO_SPACE')).toBe(ERRNO.ENOSPC)
  })
})
