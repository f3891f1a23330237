/**
 * Reads the body of an S3 answer into memory that the caller has. A body ends in one of two ways here: read to its end, so that its connection
 * can serve again, or destroyed.
 */
import type { Readable } from 'node:stream'
import { ThawError } from '../errors.ts'
import { copyWhole } from '../util/copy.ts'

export interface S3Answer {
  readonly Body?: unknown
  readonly ContentLength?: number | undefined
}

/**
 * Copies the whole body into what `allocate` gives for its length, which must have that many bytes; resolves to the length. UNAVAILABLE if it ends early. After
 * `signal` aborts nothing is written any more. An error thrown by `allocate` passes through, with the body destroyed.
 */
export async function readBody(
  answer: S3Answer,
  object: string,
  allocate: (length: number) => Uint8Array,
  signal: AbortSignal,
): Promise<number> {
  const body = answer.Body as Readable
  const length = answer.ContentLength
  try {
    signal.throwIfAborted()
    if (length === undefined) throw new ThawError('UNSUPPORTED', `provider answers without Content-Length: ${object}`, { object })
    await copy(body, allocate(length), length, object, signal)
    return length
  } catch (error) {
    body.destroy()
    throw error
  }
}

function copy(body: Readable, target: Uint8Array, length: number, object: string, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    let offset = 0
    const onAbort = (): void => fail(signal.reason)
    const fail = (error: unknown): void => {
      signal.removeEventListener('abort', onAbort)
      body.off('data', onData)
      body.destroy()
      reject(error)
    }
    const onData = (bytes: Uint8Array): void => {
      if (bytes.length > length - offset) {
        fail(wrongLength(object, length))
        return
      }
      copyWhole(bytes, target, offset)
      offset += bytes.length
    }
    signal.addEventListener('abort', onAbort)
    body.on('data', onData)
    body.once('end', () => {
      signal.removeEventListener('abort', onAbort)
      if (offset === length) resolve()
      else fail(wrongLength(object, length))
    })
    // Also after success: a destroyed stream may still report that its peer hung up, and nobody else listens.
    body.on('error', fail)
    body.once('close', () => fail(wrongLength(object, length)))
  })
}

function wrongLength(object: string, length: number): ThawError {
  return new ThawError('UNAVAILABLE', `body is not of its ${length} bytes, the connection broke: ${object}`, { object })
}
