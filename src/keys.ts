/**
 * The keyring contract: who may seal, open, sign. The embedded default is a file (`keys/file.ts`); a KMS stands behind the same contract.
 *
 * A *publisher* holds layer secrets, tenant keys and the signing key; a *worker* holds tenant (or platform) keys and public keys, and so can restore but not
 * publish, sign or seal (docs/THREATS.md). Secrets and keys are numbered: the newest of each seals, wraps and signs, all of them open.
 */

export const LAYERS = ['os', 'runtime', 'function'] as const
export type Layer = (typeof LAYERS)[number]

/** What it takes to seal chunks of one domain. Leaves the publisher's process only into its own worker threads. */
export interface Sealer {
  readonly layer: Layer
  /** 16 hex digits: the folder of the domain's chunks. */
  readonly domain: string
  /** 32 bytes: the newest layer secret of the domain. */
  readonly secret: Uint8Array
  /** False: chunks of this domain are never compressed, because lengths tell (docs/THREATS.md). */
  readonly compress: boolean
  /** True: payloads are padded to whole pages. */
  readonly pad: boolean
}

/** A data key as `keys/<id>` holds it (docs/FORMAT.md section 7). */
export interface WrappedKey {
  /** 16 hex digits naming the tenant or platform key. */
  readonly keyId: string
  readonly algorithm: 'A256GCM'
  /** IV (12) ‖ ciphertext (32) ‖ tag (16). */
  readonly wrapped: Uint8Array
}

export interface Signature {
  /** 16 hex digits naming the signing key. */
  readonly keyId: string
  /** Ed25519, 64 bytes. */
  readonly signature: Uint8Array
}

/** Whether a keyring belongs to a store; `unknown` where it has no secret to compare (a worker's). */
export type Kinship = 'same' | 'other' | 'unknown'

export interface SealerOptions {
  /** Where there is no secret, give a random one that nobody else has: what is sealed under it is shared with nobody, and can be read like all else. */
  readonly orOwnSecret?: boolean | undefined
}

export interface Keyring {
  /** Names the keyring in messages, e.g. its path. */
  readonly name: string

  /** The sealer of a layer; `tenant` undefined is the platform. WRONG_KEY: no such secret here (the message says whether the tenant is unknown or this is a worker's keyring). os and runtime ignore the tenant. */
  sealer(layer: Layer, tenant: string | undefined, options?: SealerOptions): Promise<Sealer>

  /** Wraps a 32-byte data key for a tenant, or for the platform. WRONG_KEY if there is no key for it. */
  wrap(dataKey: Uint8Array, snapshotId: Uint8Array, tenant: string | undefined): Promise<WrappedKey>

  /** The data key, by whichever of the wrapped ones this keyring can open. WRONG_KEY if none. */
  unwrap(wrapped: readonly WrappedKey[], snapshotId: Uint8Array): Promise<Uint8Array>

  /** Signs with the newest signing key. WRONG_KEY if there is none. */
  sign(message: Uint8Array): Promise<Signature>

  /** Whether one of the public keys held here made that signature. False also for an unknown signer. */
  verify(message: Uint8Array, signature: Signature): Promise<boolean>

  /** Tenants whose keys are held here, ascending. */
  tenants(): Promise<readonly string[]>

  /** Check values for `store.json` (docs/FORMAT.md section 3), domain → hex, in the order os, runtime, function. WRONG_KEY for a worker's. */
  checkValues(storeId: string): Promise<ReadonlyMap<string, string>>

  /** Compares with the check values of a store. */
  kinship(storeId: string, checks: ReadonlyMap<string, string>): Promise<Kinship>
}
