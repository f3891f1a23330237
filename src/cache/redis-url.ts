/**
 * Where a Redis or Valkey server lies: `redis://[user:password@]host[:port][/db]`, or `rediss://` for TLS.
 *
 * What is wrong with an address is said without repeating any of it: of a password with an unencoded `/`, `?` or `#` the
 * first part looks like a port, and of one with `@` and `/` like a host. `name` is what a server is called in messages and what rendezvous hashing
 * takes, so it holds neither user nor password.
 */

export interface RedisAddress {
  /** `host:port`, IPv6 addresses in brackets. */
  readonly name: string
  /** Without brackets. */
  readonly host: string
  readonly port: number
  readonly username: string | undefined
  readonly password: string | undefined
  readonly db: number
  readonly tls: boolean
}

const PORT_DEFAULT = 6379
const DB = /^\/?$|^\/(\d{1,5})$/

/** TypeError names what is wrong. */
export function parseRedisUrl(text: string): RedisAddress {
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (url === undefined || (url.protocol !== 'redis:' && url.protocol !== 'rediss:') || url.hostname === '')
    throw new TypeError('an L2 cache is redis://[user:password@]host:port[/db], or rediss:// for TLS')
  if (url.search !== '' || url.hash !== '')
    throw new TypeError('the URL of an L2 node has parameters, and takes none (is its password percent-encoded?)')
  const db = DB.exec(url.pathname)
  if (db === null)
    throw new TypeError(
      'what follows the port in the URL of an L2 node must be the number of a database (is its password percent-encoded?)',
    )
  const port = url.port === '' ? PORT_DEFAULT : Number(url.port)
  if (port === 0) throw new TypeError('port 0 in the URL of an L2 node is no port')
  return {
    name: `${url.hostname}:${port}`,
    host: url.hostname.replace(/^\[|\]$/g, ''),
    port,
    username: decoded(url.username),
    password: decoded(url.password),
    db: Number(db[1] ?? 0),
    tls: url.protocol === 'rediss:',
  }
}

function decoded(part: string): string | undefined {
  try {
    return part === '' ? undefined : decodeURIComponent(part)
  } catch {
    throw new TypeError('the user or password in the URL of an L2 node is not percent-encoded as it should be')
  }
}
