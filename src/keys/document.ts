/**
 * What a keyring file holds, and its one form: JSON on many lines, because people look at it, ending in a checksum, because a secret with one
 * digit changed would seal data that nobody can open.
 *
 * Publisher and worker have the same members. A worker's `secrets` are empty and its signing keys have no private half, so it knows its domains but can
 * neither seal nor sign. Numbers of secrets and keys ascend, the last is the newest; no list is ever reordered, no number used again.
 *
 * Not part of the store's format: the file is this implementation's own, and another keyring (a KMS) has none.
 */
import { createHash } from 'node:crypto'
import { type JsonValue, type Members, parseMembers } from '../document.ts'
import { ThawError } from '../errors.ts'
import { LAYERS, type Layer } from '../keys.ts'
import { SHORT_ID, TENANT_NAME } from '../names.ts'
import { toHex } from '../util/encoding.ts'
import type { WrappingKey } from './wrapped.ts'

/** 32 bytes, in hex in the file: layer secrets, AES-256 keys, both halves of an Ed25519 key. */
export const SECRET_BYTES = 32

/** A thousand million rotations; a bound so that numbers stay exact. */
const NUMBER_MAX = 1e9

export const ROLES = ['publisher', 'worker'] as const
export type Role = (typeof ROLES)[number]

export interface LayerSecret {
  readonly number: number
  readonly secret: Uint8Array
}

/** A domain and the secrets that seal its chunks; none for a worker. */
export interface Domain {
  /** 16 hex digits. */
  readonly domain: string
  readonly compress: boolean
  readonly pad: boolean
  readonly secrets: readonly LayerSecret[]
}

/** Wraps and opens data keys. */
export interface KeyEncryptionKey extends WrappingKey {
  readonly number: number
}

export interface TenantKeys extends Domain {
  readonly keys: readonly KeyEncryptionKey[]
}

export interface SigningKey {
  readonly number: number
  /** 16 hex digits. */
  readonly id: string
  /** Ed25519 seed, 32 bytes; undefined for a worker. */
  readonly privateKey: Uint8Array | undefined
  readonly publicKey: Uint8Array
}

export interface KeyringDocument {
  readonly role: Role
  /** The function layer's is the platform's own: for function snapshots without a tenant. */
  readonly layers: Readonly<Record<Layer, Domain>>
  /** For snapshots without a tenant. */
  readonly platformKeys: readonly KeyEncryptionKey[]
  readonly tenants: ReadonlyMap<string, TenantKeys>
  readonly signingKeys: readonly SigningKey[]
}

/** The file's text. */
export function formatKeyring(document: KeyringDocument): string {
  const body = encode(document)
  const sha256 = createHash('sha256').update(JSON.stringify(body)).digest('hex')
  return `${JSON.stringify({ ...body, sha256 }, undefined, 2)}\n`
}

/** Reads the text of the file at `path`. BAD_FORMAT, without secrets in the message, for anything that `formatKeyring` has not written. */
export function parseKeyring(text: string, path: string): KeyringDocument {
  const document = decode(parseMembers(text, path))
  if (formatKeyring(document) === text) return document
  throw new ThawError('BAD_FORMAT', `${path} is a damaged keyring: its checksum differs, or it was edited`, { object: path })
}

function encode(document: KeyringDocument): { readonly [member: string]: JsonValue } {
  const layers = document.layers
  const tenants = [...document.tenants].sort(([a], [b]) => (a < b ? -1 : 1))
  return {
    version: 1,
    role: document.role,
    layers: { os: encodeDomain(layers.os), runtime: encodeDomain(layers.runtime), function: encodeDomain(layers.function) },
    platformKeys: document.platformKeys.map(encodeKey),
    tenants: Object.fromEntries(tenants.map(([name, tenant]) => [name, { ...encodeDomain(tenant), keys: tenant.keys.map(encodeKey) }])),
    signingKeys: document.signingKeys.map(({ number, id, privateKey, publicKey }) => ({
      number,
      id,
      privateKey: privateKey === undefined ? null : toHex(privateKey),
      publicKey: toHex(publicKey),
    })),
  }
}

function encodeDomain({ domain, compress, pad, secrets }: Domain): { readonly [member: string]: JsonValue } {
  return { domain, compress, pad, secrets: secrets.map(({ number, secret }) => ({ number, secret: toHex(secret) })) }
}

function encodeKey({ number, id, key }: KeyEncryptionKey): JsonValue {
  return { number, id, key: toHex(key) }
}

function decode(members: Members): KeyringDocument {
  members.version(1)
  const layers = members.object('layers')
  const tenants = members.object('tenants')
  return {
    role: members.oneOf('role', ROLES),
    layers: {
      os: decodeDomain(layers.object(LAYERS[0])),
      runtime: decodeDomain(layers.object(LAYERS[1])),
      function: decodeDomain(layers.object(LAYERS[2])),
    },
    platformKeys: numbered(members, 'platformKeys', decodeKey),
    tenants: new Map(tenants.names(TENANT_NAME).map(name => [name, decodeTenant(tenants.object(name))])),
    signingKeys: numbered(members, 'signingKeys', decodeSigningKey),
  }
}

function decodeTenant(members: Members): TenantKeys {
  return { ...decodeDomain(members), keys: numbered(members, 'keys', decodeKey) }
}

function decodeDomain(members: Members): Domain {
  return {
    domain: members.text('domain', SHORT_ID),
    compress: members.boolean('compress'),
    pad: members.boolean('pad'),
    secrets: numbered(members, 'secrets', secret => ({ number: numberOf(secret), secret: secret.hex('secret', SECRET_BYTES) })),
  }
}

function decodeKey(members: Members): KeyEncryptionKey {
  return { number: numberOf(members), id: members.text('id', SHORT_ID), key: members.hex('key', SECRET_BYTES) }
}

function decodeSigningKey(members: Members): SigningKey {
  return {
    number: numberOf(members),
    id: members.text('id', SHORT_ID),
    privateKey: members.hexOrNull('privateKey', SECRET_BYTES),
    publicKey: members.hex('publicKey', SECRET_BYTES),
  }
}

function numberOf(members: Members): number {
  return members.integer('number', 1, NUMBER_MAX)
}

/** A list whose numbers ascend: "the newest" is its last item, everywhere. */
function numbered<T extends { readonly number: number }>(members: Members, name: string, decodeItem: (item: Members) => T): T[] {
  const items = members.list(name).map(decodeItem)
  if (items.some((item, index) => index > 0 && item.number <= items[index - 1]!.number))
    members.refuse(`the numbers of ${name} do not ascend`)
  return items
}
