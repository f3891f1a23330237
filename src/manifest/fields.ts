/** Numbers of docs/FORMAT.md section 6 that the encoder and the decoder share. */

/** Constant: a data key seals one manifest. */
export const MANIFEST_IV: Buffer = Buffer.alloc(12)

export const FRAME = {
  magic: 'THAWMAN1',
  /** magic ‖ cleartext length u32 ‖ sealed length u32. */
  headerBytes: 16,
  tagBytes: 16,
  keyInfo: 'thaw-manifest-1',
} as const

export const CLEAR = { version: 1, layer: 2, parent: 3, sameContentAs: 4, segments: 5, ids: 6, sealedBytes: 7 } as const
export const SEALED = { tenant: 1, createdAtMs: 2, labels: 3, lineageKey: 4, keys: 5, pages: 6, images: 7 } as const

/** Unknown keys from here on are ignored, below refused. */
export const OPTIONAL_KEYS_FROM = 128
