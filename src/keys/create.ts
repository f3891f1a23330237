/**
 * Fresh secrets: the only place where any is made. Everything comes from the system's generator (`node:crypto`), never from `util/clock.ts`.
 */
import { randomBytes } from 'node:crypto'
import type { Domain, KeyEncryptionKey, KeyringDocument, SigningKey, TenantKeys } from './document.ts'
import { SECRET_BYTES } from './document.ts'
import { generateSigningKeyPair } from './signing.ts'

export interface DomainOptions {
  /** False: never compress this domain's chunks, for guests that others can feed while they watch lengths (docs/THREATS.md). Default: true. */
  readonly compress?: boolean | undefined
  /** Pad payloads to whole pages. Default for function layers: true, because lengths tell what is in a chunk. */
  readonly pad?: boolean | undefined
}

/** The keyring of a new publisher, without tenants. */
export function newKeyring(): KeyringDocument {
  return {
    role: 'publisher',
    layers: { os: newDomain({ pad: false }), runtime: newDomain({ pad: false }), function: newDomain({}) },
    platformKeys: [newKey()],
    tenants: new Map(),
    signingKeys: [newSigningKey()],
  }
}

export function newTenant(options: DomainOptions): TenantKeys {
  return { ...newDomain(options), keys: [newKey()] }
}

function newDomain({ compress = true, pad = true }: DomainOptions): Domain {
  return { domain: newId(), compress, pad, secrets: [{ number: 1, secret: newSecret() }] }
}

function newKey(): KeyEncryptionKey {
  return { number: 1, id: newId(), key: newSecret() }
}

function newSigningKey(): SigningKey {
  return { number: 1, id: newId(), ...generateSigningKeyPair() }
}

function newSecret(): Uint8Array {
  return Uint8Array.from(randomBytes(SECRET_BYTES))
}

function newId(): string {
  return randomBytes(8).toString('hex')
}
