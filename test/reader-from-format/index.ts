/**
 * A second reader of a store, written from docs/FORMAT.md alone: it shares no code with the first one, and takes its primitives
 * from elsewhere, so that a mistake in one of the two shows as a difference. Plain and slow on purpose.
 */
export { mix64, openChunk, type SealedChunk, sealFromPayload } from './chunks.ts'
export { FormatError, type FormatErrorCode } from './errors.ts'
export { type Folder, readFolder } from './folder.ts'
export { unwrapDataKey } from './keys.ts'
export { decodeManifest, type Manifest, type Segment } from './manifest.ts'
export { decodeRuns } from './runs.ts'
export { type Image, rangeDigest, readSnapshot, type Snapshot } from './snapshot.ts'
export { type Files, type List, type Root, readRoots, readStoreDocument, type StoreDocument } from './store.ts'
export { readTag, type Tag } from './tags.ts'
