/**
 * Whether layer secrets belong to a store, without showing them (docs/FORMAT.md section 3): check values, made by `init`, compared by everyone later.
 *
 * A check value is made of a domain's first secret and compared with all of them, so that it holds through rotations.
 */
import { createHmac } from 'node:crypto'
import { type Kinship, LAYERS, type Layer } from '../keys.ts'
import type { Domain } from './document.ts'

const CHECK_BYTES = 16

type LayerDomains = Readonly<Record<Layer, Domain>>

/** Domain → check value of its first secret, in the order os, runtime, function; undefined if one has no secret. */
export function checkValuesOf(layers: LayerDomains, storeId: string): ReadonlyMap<string, string> | undefined {
  const values = new Map<string, string>()
  for (const layer of LAYERS) {
    const { domain, secrets } = layers[layer]
    const first = secrets[0]
    if (first === undefined) return undefined
    values.set(domain, checkValue(first.secret, storeId))
  }
  return values
}

/** `other`: a listed domain's secrets do not give its value, or there are secrets and none is of a listed domain. `unknown`: no secrets. */
export function kinshipOf(layers: LayerDomains, storeId: string, checks: ReadonlyMap<string, string>): Kinship {
  const domains = LAYERS.map(layer => layers[layer]).filter(({ secrets }) => secrets.length > 0)
  if (domains.length === 0) return 'unknown'
  const listed = domains.filter(({ domain }) => checks.has(domain))
  const fits = ({ domain, secrets }: Domain) => secrets.some(({ secret }) => checkValue(secret, storeId) === checks.get(domain))
  return listed.length > 0 && listed.every(fits) ? 'same' : 'other'
}

function checkValue(secret: Uint8Array, storeId: string): string {
  return createHmac('sha256', secret).update(`thaw-check-1${storeId}`).digest().subarray(0, CHECK_BYTES).toString('hex')
}
