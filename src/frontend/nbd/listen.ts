/** A TCP socket that listens, for a pager to accept at. */

import { lookup } from 'node:dns/promises'
import { closeSync } from 'node:fs'
import { fromErrno, ThawError } from '../../errors.ts'
import type { Native } from '../../util/native.ts'
import { systemError } from '../../util/system-error.ts'
import { BACKLOG } from '../socket.ts'

export interface TcpAddress {
  readonly host: string
  /** 0: one that is free. */
  readonly port: number
}

export interface TcpListener {
  /** Non-blocking, close-on-exec; the caller's to close. */
  readonly fd: number
  /** The address it listens at. */
  readonly address: TcpAddress
}

const AF_INET = 2
const AF_INET6 = 10
const SOCK_STREAM = 1
const SOCK_NONBLOCK = 0o4000
const SOCK_CLOEXEC = 0o2000000
const SOL_SOCKET = 1
const SO_REUSEADDR = 2
/** struct sockaddr_in6 (<netinet/in.h>), the greater of the two. */
const ADDRESS_BYTES = 28

/** @throws NOT_FOUND if the host has no address here; CONFLICT if somebody listens there; DENIED, UNAVAILABLE */
export async function listenAtAddress(native: Native, { host, port }: TcpAddress): Promise<TcpListener> {
  const what = `${host}:${port}`
  try {
    const { address, family } = await lookup(host)
    return bindAt(native, address, family === 6 ? AF_INET6 : AF_INET, port)
  } catch (error) {
    throw listenError(error, what)
  }
}

/** What a failure to listen is to a caller. */
function listenError(error: unknown, what: string): unknown {
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  const options = { cause: error, object: what }
  if (code === 'EADDRINUSE') return new ThawError('CONFLICT', `somebody listens at ${what} already`, options)
  if (code === 'ENOTFOUND' || code === 'EADDRNOTAVAIL') return new ThawError('NOT_FOUND', `${what} is no address of this machine`, options)
  return fromErrno(error, 'cannot listen at', what)
}

function bindAt(native: Native, host: string, family: number, port: number): TcpListener {
  const fd = native.socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
  if (fd < 0) throw systemError(native, 'socket')
  try {
    const address = encode(family, host, port)
    const one = Buffer.from(Int32Array.of(1).buffer)
    // A port whose last connections are not forgotten yet can be listened at again.
    native.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, one, one.length)
    if (native.bind(fd, address, address.length) < 0) throw systemError(native, 'bind')
    if (native.listen(fd, BACKLOG) < 0) throw systemError(native, 'listen')
    const bound = Buffer.alloc(ADDRESS_BYTES)
    const size = Buffer.from(Int32Array.of(bound.length).buffer)
    if (native.getsockname(fd, bound, size) < 0) throw systemError(native, 'getsockname')
    return { fd, address: { host, port: bound.readUInt16BE(2) } }
  } catch (error) {
    closeSync(fd)
    throw error
  }
}

/** struct sockaddr_in or sockaddr_in6. */
function encode(family: number, host: string, port: number): Buffer {
  const isV4 = family === AF_INET
  const bytes = Buffer.alloc(isV4 ? 16 : ADDRESS_BYTES)
  bytes.writeUInt16LE(family, 0)
  bytes.writeUInt16BE(port, 2)
  if (isV4) Buffer.from(host.split('.').map(Number)).copy(bytes, 4)
  else groupsOf(host).forEach((group, index) => void bytes.writeUInt16BE(group, 8 + 2 * index))
  return bytes
}

/** The eight groups of an IPv6 address. A URL writes them all in hexadecimal. */
function groupsOf(host: string): number[] {
  if (host.includes('%')) throw new ThawError('UNSUPPORTED', `${host}: an address with a zone cannot be listened at`, { object: host })
  const [left = '', right] = new URL(`tcp://[${host}]`).hostname.slice(1, -1).split('::')
  const parse = (text: string): number[] => (text === '' ? [] : text.split(':').map(group => Number.parseInt(group, 16)))
  if (right === undefined) return parse(left)
  const [head, tail] = [parse(left), parse(right)]
  return [...head, ...new Array<number>(8 - head.length - tail.length).fill(0), ...tail]
}
