/**
 * Where an S3 store lies: `s3://bucket/prefix?endpoint=http://host:port&region=…&pathStyle=true`. Without an endpoint it is AWS. A given endpoint means path
 * style (`http://host/bucket/key`), which every provider serves without wildcard DNS, unless `pathStyle=false`.
 *
 * Credentials have no place here: URLs end up in logs. They come from the AWS default chain.
 */
import { isKey } from './object-key.ts'

export interface S3Location {
  readonly bucket: string
  /** Empty, or ends in `/`: stands before every key. */
  readonly prefix: string
  readonly endpoint: string | undefined
  readonly region: string | undefined
  readonly pathStyle: boolean
  /** Names the store in messages, and opens the same one. */
  readonly url: string
}

const PARAMETERS: readonly string[] = ['endpoint', 'region', 'pathStyle']

/** TypeError says what is wrong, without repeating what may be a secret. */
export function parseS3Url(text: string): S3Location {
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (url?.protocol !== 's3:' || url.hash !== '' || url.port !== '')
    throw new TypeError('an S3 store is s3://bucket/prefix?endpoint=…&region=…')
  if (url.username !== '' || url.password !== '')
    throw new TypeError('credentials do not belong in the URL: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY')
  if (url.hostname.length < 3) throw new TypeError('an S3 store needs a bucket name of at least 3 characters: s3://bucket/prefix')
  // Not which one: it may be a part of a secret that somebody wrote into the URL.
  if (![...url.searchParams.keys()].every(name => PARAMETERS.includes(name)))
    throw new TypeError(`unknown parameter of an S3 store (known: ${PARAMETERS.join(', ')})`)
  const endpoint = parseEndpoint(url.searchParams.get('endpoint'))
  const path = decodeURIComponent(url.pathname).replace(/^\/+|\/+$/g, '')
  if (path !== '' && !isKey(path)) throw new TypeError('the prefix of an S3 store must be segments joined by "/"')
  const region = url.searchParams.get('region') ?? undefined
  const pathStyle = parseFlag(url.searchParams.get('pathStyle'), endpoint !== undefined)
  const parameters = [
    ...(endpoint === undefined ? [] : [`endpoint=${endpoint}`]),
    ...(region === undefined ? [] : [`region=${encodeURIComponent(region)}`]),
    ...(pathStyle === (endpoint !== undefined) ? [] : [`pathStyle=${pathStyle}`]),
  ]
  const query = parameters.length === 0 ? '' : `?${parameters.join('&')}`
  return {
    bucket: url.hostname,
    prefix: path === '' ? '' : `${path}/`,
    endpoint,
    region,
    pathStyle,
    url: `s3://${url.hostname}${path === '' ? '' : `/${path}`}${query}`,
  }
}

function parseEndpoint(text: string | null): string | undefined {
  if (text === null) return undefined
  const url = URL.canParse(text) ? new URL(text) : undefined
  const plain = url !== undefined && url.username === '' && url.password === '' && url.search === '' && url.hash === ''
  if (!plain || (url.protocol !== 'http:' && url.protocol !== 'https:'))
    throw new TypeError('endpoint must be http(s)://host[:port], without credentials')
  return url.href.replace(/\/$/, '')
}

function parseFlag(text: string | null, fallback: boolean): boolean {
  if (text === null) return fallback
  if (text !== 'true' && text !== 'false') throw new TypeError('pathStyle must be true or false')
  return text === 'true'
}
