/** Arguments and flags of `restore`, `mount` and `serve`, as what they ask for. */
import { resolve } from 'node:path'
import type { MountOptions, NbdOptions, OverlaySettings, UffdOptions } from '../index.ts'
import { ADDRESS_FORMS, parseAddress } from './address.ts'
import { UsageError } from './exit.ts'
import { parseSize, SIZE_FORMS } from './size.ts'

export type FrontEndRequest =
  | {
      readonly kind: 'fuse'
      readonly dir: string
      readonly options: MountOptions
      /** Images that guests write to through another front end: never through this one. */
      readonly writtenElsewhere: readonly string[]
    }
  | { readonly kind: 'nbd'; readonly image: string; readonly options: NbdOptions }
  | { readonly kind: 'uffd'; readonly image: string; readonly options: UffdOptions }
  | { readonly kind: 'file'; readonly image: string; readonly path: string }

export interface RestoreSettings {
  readonly id: string | undefined
  readonly overlay: OverlaySettings
  readonly pageDeadlineMs: number | undefined
  readonly spinMicroseconds: number | undefined
  readonly onResume: string | undefined
}

/** Of all commands that begin a restore. */
export interface RestoreFlags {
  readonly id?: string
  readonly overlayDir?: string
  readonly overlayMax?: string
  readonly keepOverlay?: boolean
  readonly onResume?: string
  readonly pageDeadline?: string
  readonly spin?: string
}

export interface MountFlags {
  readonly writable?: boolean
  readonly allowOther?: boolean
  readonly readAhead?: string
  readonly fileMode?: string
  readonly fileUid?: string
  readonly fileGid?: string
}

export interface SocketFlags {
  readonly socket?: string
  readonly socketMode?: string
  readonly socketUid?: string
  readonly socketGid?: string
}

export interface NbdFlags extends SocketFlags {
  readonly listen?: string
  readonly writable?: boolean
  readonly exportName?: string
  readonly connections?: string
  readonly tlsCert?: string
  readonly tlsKey?: string
  readonly tlsCa?: string
}

export interface FrontEndFlags extends MountFlags, SocketFlags {
  readonly uffd?: readonly string[]
  readonly nbd?: readonly string[]
  readonly fuse?: string
  readonly file?: readonly string[]
}

const SECOND_MS = 1000
const MODE_MAX = 0o777

export function restoreSettings(flags: RestoreFlags): RestoreSettings {
  const { id, overlayDir, overlayMax, keepOverlay, onResume, pageDeadline, spin } = flags
  const seconds = numberOf('--page-deadline', pageDeadline, 'seconds, more than 0', value => value > 0)
  return {
    id,
    overlay: { dir: overlayDir && resolve(overlayDir), sizeMax: sizeOf('--overlay-max', overlayMax), keep: keepOverlay },
    pageDeadlineMs: seconds === undefined ? undefined : seconds * SECOND_MS,
    spinMicroseconds: numberOf('--spin', spin, 'microseconds, 0 or more', value => value >= 0),
    onResume,
  }
}

export function mountOptions({ writable, allowOther, readAhead, ...owner }: MountFlags): MountOptions {
  const { fileMode, fileUid, fileGid } = owner
  return { writable, allowOther, readAheadBytes: sizeOf('--read-ahead', readAhead), ...ownerOf('file', fileMode, fileUid, fileGid) }
}

/** @throws UsageError without a socket */
export function uffdOptions(flags: SocketFlags): UffdOptions {
  if (flags.socket === undefined) throw new UsageError('name the socket: --socket PATH')
  return { socket: resolve(flags.socket), ...socketOwner(flags) }
}

/** @throws UsageError unless there is a socket or an address */
export function nbdOptions(flags: NbdFlags): NbdOptions {
  const { socket, listen, writable, exportName, connections } = flags
  if ((socket === undefined) === (listen === undefined))
    throw new UsageError('say where clients connect: --socket PATH or --listen HOST:PORT')
  const isCount = (value: number): boolean => Number.isSafeInteger(value) && value > 0
  return {
    socket: socket && resolve(socket),
    ...socketOwner(flags),
    listen: listen === undefined ? undefined : addressOf(listen),
    writable,
    exportName,
    connectionsMax: numberOf('--connections', connections, 'a number of connections', isCount),
    tls: tlsOf(flags),
  }
}

/** The front ends of `thaw restore`. @throws UsageError if none is named, or one is not as it should be */
export function frontEndRequests(flags: FrontEndFlags): FrontEndRequest[] {
  const { uffd = [], nbd = [], fuse, file = [], writable } = flags
  const owner = socketOwner(flags)
  const writtenElsewhere = [...nbd.map(text => pairOf('--nbd', text)), ...uffd.map(text => pairOf('--uffd', text))].map(
    ({ image }) => image,
  )
  // Files first: a VMM reads its state before it touches its memory.
  const requests: FrontEndRequest[] = [
    ...file.map(text => ({ kind: 'file' as const, ...pairOf('--file', text) })),
    ...nbd.map(text => {
      const { image, path } = pairOf('--nbd', text)
      return { kind: 'nbd' as const, image, options: { socket: path, writable, ...owner } }
    }),
    ...(fuse === undefined ? [] : [{ kind: 'fuse' as const, dir: resolve(fuse), options: mountOptions(flags), writtenElsewhere }]),
    ...uffd.map(text => {
      const { image, path } = pairOf('--uffd', text)
      return { kind: 'uffd' as const, image, options: { socket: path, ...owner } }
    }),
  ]
  if (requests.length > 0) return requests
  throw new UsageError('say how the images are read: --uffd IMAGE=SOCKET, --nbd IMAGE=SOCKET, --fuse DIR, --file IMAGE=PATH')
}

function pairOf(flag: string, text: string): { readonly image: string; readonly path: string } {
  const at = text.indexOf('=')
  if (at > 0 && at < text.length - 1) return { image: text.slice(0, at), path: resolve(text.slice(at + 1)) }
  return refuse(flag, text, 'IMAGE=PATH')
}

function socketOwner({ socketMode, socketUid, socketGid }: SocketFlags): Owner {
  return ownerOf('socket', socketMode, socketUid, socketGid)
}

type Owner = Pick<UffdOptions, 'mode' | 'uid' | 'gid'>

function ownerOf(what: 'socket' | 'file', mode: string | undefined, uid: string | undefined, gid: string | undefined): Owner {
  const isId = (value: number): boolean => Number.isSafeInteger(value) && value >= 0 && value < 2 ** 32 - 1
  return {
    mode: modeOf(`--${what}-mode`, mode),
    uid: numberOf(`--${what}-uid`, uid, 'a user id', isId),
    gid: numberOf(`--${what}-gid`, gid, 'a group id', isId),
  }
}

function modeOf(flag: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  const mode = /^[0-7]{3,4}$/.test(text) ? Number.parseInt(text, 8) : Number.NaN
  return mode <= MODE_MAX ? mode : refuse(flag, text, 'a mode such as 660')
}

function tlsOf({ tlsCert, tlsKey, tlsCa }: NbdFlags): NbdOptions['tls'] {
  if (tlsCert === undefined && tlsKey === undefined && tlsCa === undefined) return undefined
  if (tlsCert === undefined || tlsKey === undefined) throw new UsageError('TLS needs both --tls-cert FILE and --tls-key FILE')
  return { certFile: resolve(tlsCert), keyFile: resolve(tlsKey), caFile: tlsCa && resolve(tlsCa) }
}

function addressOf(text: string): NbdOptions['listen'] {
  return parseAddress(text) ?? refuse('--listen', text, ADDRESS_FORMS)
}

function refuse(flag: string, text: string, allowed: string): never {
  throw new UsageError(`${flag}: ${JSON.stringify(text)} is not ${allowed}`)
}

function sizeOf(flag: string, text: string | undefined): number | undefined {
  return text === undefined ? undefined : (parseSize(text) ?? refuse(flag, text, SIZE_FORMS))
}

function numberOf(flag: string, text: string | undefined, what: string, fits: (value: number) => boolean): number | undefined {
  if (text === undefined) return undefined
  const value = text.trim() === '' ? Number.NaN : Number(text)
  return fits(value) ? value : refuse(flag, text, what)
}
