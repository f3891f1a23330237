/** The algorithms FORMAT.md names: hashes by hash-wasm, everything else by Web Crypto. */
import { createHMAC, createSHA256, sha256 as sha256Hex } from 'hash-wasm'
import { fromHex } from './bytes.ts'
import { FormatError } from './errors.ts'

const { subtle } = globalThis.crypto
const NOTHING = new Uint8Array(0)

export async function sha256(bytes: Uint8Array): Promise<Uint8Array> {
  return fromHex(await sha256Hex(bytes))
}

export async function hmacSha256(key: Uint8Array, message: Uint8Array): Promise<Uint8Array> {
  const hmac = await createHMAC(createSHA256(), key)
  return hmac.init().update(message).digest('binary')
}

export async function hkdfSha256(secret: Uint8Array, info: Uint8Array, length: number): Promise<Uint8Array> {
  const key = await subtle.importKey('raw', secret, 'HKDF', false, ['deriveBits'])
  return new Uint8Array(await subtle.deriveBits({ name: 'HKDF', hash: 'SHA-256', salt: NOTHING, info }, key, length * 8))
}

/** AES-CTR with all 128 bits as the counter, from zero; the same operation seals and opens. */
export async function aesCtr(key: Uint8Array, bytes: Uint8Array): Promise<Uint8Array> {
  const imported = await subtle.importKey('raw', key, 'AES-CTR', false, ['encrypt'])
  return new Uint8Array(await subtle.encrypt({ name: 'AES-CTR', counter: new Uint8Array(16), length: 128 }, imported, bytes))
}

/** Opens ciphertext ‖ 16-byte tag. */
export async function aesGcmOpen(
  key: Uint8Array,
  iv: Uint8Array,
  additionalData: Uint8Array,
  sealed: Uint8Array,
  what: string,
): Promise<Uint8Array> {
  const imported = await subtle.importKey('raw', key, 'AES-GCM', false, ['decrypt'])
  try {
    return new Uint8Array(await subtle.decrypt({ name: 'AES-GCM', iv, additionalData, tagLength: 128 }, imported, sealed))
  } catch {
    throw new FormatError('CORRUPT', `${what} does not authenticate`)
  }
}

/** Seals nothing, so that what comes back is the tag alone. */
export async function gmac(key: Uint8Array, additionalData: Uint8Array): Promise<Uint8Array> {
  const imported = await subtle.importKey('raw', key, 'AES-GCM', false, ['encrypt'])
  const parameters = { name: 'AES-GCM', iv: new Uint8Array(12), additionalData, tagLength: 128 }
  return new Uint8Array(await subtle.encrypt(parameters, imported, NOTHING))
}

export async function ed25519Verify(publicKey: Uint8Array, signature: Uint8Array, message: Uint8Array): Promise<boolean> {
  const imported = await subtle.importKey('raw', publicKey, 'Ed25519', false, ['verify'])
  return await subtle.verify('Ed25519', imported, signature, message)
}
