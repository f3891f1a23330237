/**
 * Ed25519 (RFC 8032) over raw 32-byte keys, by `node:crypto`. JWK is how Node takes raw keys; importing one costs 0.05 ms, so none is kept.
 */
import { createPrivateKey, createPublicKey, generateKeyPairSync, sign, verify } from 'node:crypto'

export interface SigningKeyPair {
  /** The seed, 32 bytes. */
  readonly privateKey: Uint8Array
  /** 32 bytes. */
  readonly publicKey: Uint8Array
}

export function generateSigningKeyPair(): SigningKeyPair {
  const { d = '', x = '' } = generateKeyPairSync('ed25519').privateKey.export({ format: 'jwk' })
  return { privateKey: Uint8Array.from(Buffer.from(d, 'base64url')), publicKey: Uint8Array.from(Buffer.from(x, 'base64url')) }
}

/** 64 bytes. */
export function signMessage(message: Uint8Array, { privateKey, publicKey }: SigningKeyPair): Uint8Array {
  const key = createPrivateKey({ key: { ...jwkOf(publicKey), d: Buffer.from(privateKey).toString('base64url') }, format: 'jwk' })
  return Uint8Array.from(sign(null, message, key))
}

export function verifyMessage(message: Uint8Array, signature: Uint8Array, publicKey: Uint8Array): boolean {
  return verify(null, message, createPublicKey({ key: jwkOf(publicKey), format: 'jwk' }), signature)
}

function jwkOf(publicKey: Uint8Array): { readonly kty: 'OKP'; readonly crv: 'Ed25519'; readonly x: string } {
  return { kty: 'OKP', crv: 'Ed25519', x: Buffer.from(publicKey).toString('base64url') }
}
