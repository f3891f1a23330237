/**
 * What S3 and the way to it can answer, as codes of thaw. First by the provider's error name, then by HTTP status, then by what the
 * socket said. Anything else (a bug) passes through unchanged.
 */
import { type ErrorCode, ThawError } from '../errors.ts'

const CODE_OF_NAME: Readonly<Record<string, ErrorCode>> = {
  NoSuchKey: 'NOT_FOUND',
  NoSuchBucket: 'NOT_FOUND',
  BadDigest: 'CORRUPT',
  InvalidDigest: 'CORRUPT',
  XAmzContentSHA256Mismatch: 'CORRUPT',
  XAmzContentChecksumMismatch: 'CORRUPT',
  RequestTimeout: 'UNAVAILABLE',
  SlowDown: 'UNAVAILABLE',
  TimeoutError: 'UNAVAILABLE',
  ExpiredToken: 'DENIED',
  InvalidToken: 'DENIED',
  TokenRefreshRequired: 'DENIED',
  RequestExpired: 'DENIED',
  InvalidAccessKeyId: 'DENIED',
  AuthorizationHeaderMalformed: 'DENIED',
  CredentialsProviderError: 'DENIED',
  NotImplemented: 'UNSUPPORTED',
  QuotaExceeded: 'NO_SPACE',
  XMinioStorageFull: 'NO_SPACE',
  XMinioAdminBucketQuotaExceeded: 'NO_SPACE',
}

const CODE_OF_STATUS: Readonly<Record<number, ErrorCode>> = {
  401: 'DENIED',
  403: 'DENIED',
  404: 'NOT_FOUND',
  408: 'UNAVAILABLE',
  409: 'CONFLICT',
  412: 'CONFLICT',
  429: 'UNAVAILABLE',
  501: 'UNSUPPORTED',
  507: 'NO_SPACE',
}

/** What to do about it, where that is not plain from the code. */
const ADVICE: Partial<Record<ErrorCode, string>> = {
  DENIED: 'check credentials and permissions; S3 also answers 403 for a missing object where ListBucket is not allowed',
  CORRUPT: 'the bytes were damaged on the way and not stored',
}

export interface S3Call {
  /** Names what was tried: "cannot read object". */
  readonly what: string
  /** Object key, or prefix of a listing. */
  readonly key: string
  readonly bucket: string
  readonly url: string
}

/** The error of an S3 call as a ThawError; those that are one already, and errors that are not S3's or the network's, as they are. */
export function fromS3(error: unknown, { what, key, bucket, url }: S3Call): unknown {
  const code = codeOf(error)
  if (code === undefined) return error
  const name = nameOf(error)
  const advice = name === 'NoSuchBucket' ? `there is no bucket ${bucket}: create it first` : ADVICE[code]
  const message = `${what}: ${key === '' ? url : `${key} in ${url}`}: ${name}${advice === undefined ? '' : ` (${advice})`}`
  return new ThawError(code, message, { object: key, cause: error, ...(code === 'CORRUPT' && { tier: 'origin' }) })
}

/** HTTP status of an S3 answer, undefined if there was none. */
export function statusOf(error: unknown): number | undefined {
  if (!(error instanceof Error) || !('$metadata' in error)) return undefined
  const metadata = error.$metadata
  const status = typeof metadata === 'object' && metadata !== null && 'httpStatusCode' in metadata ? metadata.httpStatusCode : undefined
  return typeof status === 'number' ? status : undefined
}

/**
 * Whether a server refused a request for its credentials or permissions, as far as can be told: an answer
 * without a document, as every one to a HEAD is, says 400 of an expired token and of much else.
 */
export function isRefusal(error: unknown): boolean {
  const status = statusOf(error)
  return status !== undefined && (codeOf(error) === 'DENIED' || (status === 400 && nameOf(error) === 'HTTP 400'))
}

/** Names by which a server says that it is the credentials, and not what they permit. */
const OF_CREDENTIALS: readonly string[] = [
  'ExpiredToken',
  'InvalidToken',
  'TokenRefreshRequired',
  'RequestExpired',
  'InvalidAccessKeyId',
  'SignatureDoesNotMatch',
]

/** Whether a server refused a request for its credentials, by its own word. */
export function areCredentialsRefused(error: unknown): boolean {
  return error instanceof Error && OF_CREDENTIALS.includes(error.name)
}

/** The provider's name for an error, or the network's: never its message, which may repeat parts of the request. */
function nameOf(error: unknown): string {
  if (!(error instanceof Error)) return 'unknown error'
  const status = statusOf(error)
  if (status === undefined) return 'code' in error && typeof error.code === 'string' ? error.code : error.name
  // What the SDK calls an answer without an error document, as every one to a HEAD is.
  return error.name.startsWith('Unknown') ? `HTTP ${status}` : error.name
}

function codeOf(error: unknown): ErrorCode | undefined {
  if (!(error instanceof Error) || error instanceof ThawError) return undefined
  const known = CODE_OF_NAME[error.name]
  if (known !== undefined) return known
  const status = statusOf(error)
  if (status !== undefined) return CODE_OF_STATUS[status] ?? (status >= 500 ? 'UNAVAILABLE' : 'UNSUPPORTED')
  // Errors of sockets, DNS and TLS carry a string code; a TypeError of Node's own argument checks does too, and is a bug.
  return 'code' in error && typeof error.code === 'string' && !(error instanceof TypeError) ? 'UNAVAILABLE' : undefined
}
