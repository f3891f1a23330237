/**
 * A keyring for someone who may do less: a worker, or a publisher of some tenants only.
 *
 * A worker's has no secret of any layer and no private signing key. It keeps domains, which say where chunks lie and are no secret. Named tenants
 * only: neither the other tenants nor, unless asked for, the platform's own keys and function secret; os and runtime secrets stay a publisher's.
 */
import { ThawError } from '../errors.ts'
import type { Domain, KeyringDocument, Role, TenantKeys } from './document.ts'

export interface ExportOptions {
  /** Only these tenants. Default: all, and the platform. */
  readonly tenants?: readonly string[] | undefined
  /** Whether to include the platform's own keys. Default: only if no tenants are named. */
  readonly platform?: boolean | undefined
}

/** @throws WRONG_KEY naming a tenant that is not there, or if a worker's keyring is to give a publisher's; `name` is the keyring's in messages. */
export function exportedDocument(document: KeyringDocument, role: Role, options: ExportOptions, name: string): KeyringDocument {
  if (role === 'publisher' && document.role === 'worker') {
    throw new ThawError('WRONG_KEY', `${name} is a worker's keyring: a publisher's can only be exported from a publisher's`, {
      object: name,
    })
  }
  const reduce = role === 'worker' ? withoutSecrets : <T extends Domain>(domain: T) => domain
  const platform = options.platform ?? options.tenants === undefined
  const { os, runtime, function: own } = document.layers
  return {
    role,
    layers: { os: reduce(os), runtime: reduce(runtime), function: platform ? reduce(own) : withoutSecrets(own) },
    platformKeys: platform ? document.platformKeys : [],
    tenants: new Map(chosen(document, options.tenants, name).map(([tenant, keys]) => [tenant, reduce(keys)])),
    signingKeys: role === 'worker' ? document.signingKeys.map(key => ({ ...key, privateKey: undefined })) : document.signingKeys,
  }
}

function withoutSecrets<T extends Domain>(domain: T): T {
  return { ...domain, secrets: [] }
}

function chosen(document: KeyringDocument, names: readonly string[] | undefined, name: string): [string, TenantKeys][] {
  if (names === undefined) return [...document.tenants]
  return names.map(tenant => {
    const keys = document.tenants.get(tenant)
    if (keys === undefined) throw unknownTenant(name, tenant)
    return [tenant, keys]
  })
}

export function unknownTenant(keyring: string, tenant: string): ThawError {
  const advice = `make them with \`thaw key create --tenant ${tenant}\`, or push with --create-tenant`
  return new ThawError('WRONG_KEY', `${keyring} holds no keys of tenant ${JSON.stringify(tenant)}: ${advice}`, { object: tenant })
}
