/**
 * What `thaw key ls` shows of a keyring: ids and numbers, never a secret. One row for each secret and key, the newest of each last.
 */
import { LAYERS, type Layer } from '../keys.ts'
import type { Domain, KeyEncryptionKey, KeyringDocument } from './document.ts'

export interface KeyListing {
  /** `secret` seals chunks of a layer, `key` wraps data keys, `signing` signs tags. */
  readonly kind: 'secret' | 'key' | 'signing'
  /** For secrets; null otherwise. */
  readonly layer: Layer | null
  /** Null: the platform's. */
  readonly tenant: string | null
  /** The domain of a secret, the id of a key. */
  readonly id: string
  readonly number: number
  /** Whether this one seals, wraps or signs now; the others only open and verify. */
  readonly newest: boolean
}

export function listKeys(document: KeyringDocument): KeyListing[] {
  const tenants = [...document.tenants]
  return [
    ...LAYERS.flatMap(layer => secretRows(document.layers[layer], layer, null)),
    ...tenants.flatMap(([tenant, domain]) => secretRows(domain, 'function', tenant)),
    ...keyRows(document.platformKeys, null),
    ...tenants.flatMap(([tenant, { keys }]) => keyRows(keys, tenant)),
    ...document.signingKeys.map(
      ({ id, number }, index, all): KeyListing => ({
        kind: 'signing',
        layer: null,
        tenant: null,
        id,
        number,
        newest: index === all.length - 1,
      }),
    ),
  ]
}

function secretRows({ domain, secrets }: Domain, layer: Layer, tenant: string | null): KeyListing[] {
  return secrets.map(({ number }, index) => ({ kind: 'secret', layer, tenant, id: domain, number, newest: index === secrets.length - 1 }))
}

function keyRows(keys: readonly KeyEncryptionKey[], tenant: string | null): KeyListing[] {
  return keys.map(({ id, number }, index) => ({ kind: 'key', layer: null, tenant, id, number, newest: index === keys.length - 1 }))
}
