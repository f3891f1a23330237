/** A snapshot from its id to the bytes of its images, everything verified on the way. */
import { allZero, equal, fromHex, hex, isHex, PAGE, RANGE } from './bytes.ts'
import { openChunk } from './chunks.ts'
import { gmac, sha256 } from './crypto.ts'
import { FormatError, refuse } from './errors.ts'
import { unwrapDataKey } from './keys.ts'
import { decodeManifest, type Manifest, type Segment } from './manifest.ts'
import type { ImageKind, ImageTable } from './sealed-part.ts'
import { type Files, type List, readExisting, readRoots } from './store.ts'

export interface Image {
  name: string
  kind: ImageKind
  sizeBytes: number
  /** Fetches and verifies anew on each call. */
  bytes(): Promise<Uint8Array>
}

export interface Snapshot {
  /** 0 os, 1 runtime, 2 function. */
  layer: number
  parent: string | null
  sameContentAs: string | null
  tenant: string | null
  /** Milliseconds since 1970. */
  createdAt: number
  labels: [name: string, value: string][]
  images: Image[]
  chunkCount: number
  segments: Segment[]
}

/** `unwrapKeys` are the 32-byte keys that wrap data keys, by key id. */
export async function readSnapshot(
  files: Files,
  list: List,
  snapshotIdHex: string,
  unwrapKeys: ReadonlyMap<string, Uint8Array>,
): Promise<Snapshot> {
  refuse(!isHex(snapshotIdHex, 64), 'not the id of a snapshot')
  for (const { root } of await readRoots(files, list)) {
    const bytes = await files(`roots/${root}/manifests/${snapshotIdHex}`)
    if (bytes === undefined) continue
    if (!equal(await sha256(bytes), fromHex(snapshotIdHex))) {
      throw new FormatError('CORRUPT', `the SHA-256 of manifest ${snapshotIdHex} is not its id`)
    }
    const wrapped = await readExisting(files, `roots/${root}/keys/${snapshotIdHex}`)
    const dataKey = await unwrapDataKey(wrapped, snapshotIdHex, unwrapKeys)
    return toSnapshot(files, root, await decodeManifest(bytes, dataKey))
  }
  throw new FormatError('NOT_FOUND', `no root has a manifest ${snapshotIdHex}`)
}

/** The keyed hash of a range's bytes. */
export async function rangeDigest(lineageKey: Uint8Array, bytes: Uint8Array): Promise<Uint8Array> {
  return await gmac(lineageKey, bytes)
}

function toSnapshot(files: Files, root: string, manifest: Manifest): Snapshot {
  const { layer, parent, sameContentAs, tenant, createdAt, labels, segments } = manifest
  const images = manifest.images.map(
    (image): Image => ({
      name: image.name,
      kind: image.kind,
      sizeBytes: image.sizeBytes,
      bytes: () => readImage(files, root, manifest, image),
    }),
  )
  return { layer, parent, sameContentAs, tenant, createdAt, labels, images, chunkCount: manifest.chunkIds.length, segments }
}

async function readImage(files: Files, root: string, manifest: Manifest, image: ImageTable): Promise<Uint8Array> {
  const domains = manifest.segments.flatMap(segment => Array.from({ length: segment.count }, () => segment.domain))
  const padded = new Uint8Array(Math.ceil(image.sizeBytes / PAGE) * PAGE)
  let at = 0
  // The runs of one chunk mostly follow one another, so the last one opened is enough to keep.
  let opened: { chunk: number; pages: Uint8Array } | undefined
  for (const { pages, from } of image.runs) {
    if (from !== undefined) {
      if (opened?.chunk !== from.chunk) {
        opened = { chunk: from.chunk, pages: await readChunk(files, root, manifest, domains[from.chunk] ?? '', from.chunk) }
      }
      padded.set(opened.pages.subarray(from.firstPage * PAGE, (from.firstPage + pages) * PAGE), at)
    }
    at += pages * PAGE
  }
  refuse(!allZero(padded.subarray(image.sizeBytes)), `image ${image.name}: its short last page is not filled with zeros`)
  const bytes = padded.subarray(0, image.sizeBytes)
  await verifyRanges(manifest.lineageKey, image, bytes)
  return bytes
}

async function readChunk(files: Files, root: string, manifest: Manifest, domain: string, index: number): Promise<Uint8Array> {
  const id = manifest.chunkIds[index] ?? new Uint8Array(0)
  const name = hex(id)
  const sealed = await readExisting(files, `roots/${root}/chunks/${domain}/${name.slice(0, 2)}/${name}`)
  if (sealed.length !== manifest.sealedLengths[index])
    throw new FormatError('CORRUPT', `chunk ${name} has another length than its manifest tells`)
  if (!equal(await sha256(sealed), id)) throw new FormatError('CORRUPT', `the SHA-256 of chunk ${name} is not its id`)
  const pages = (manifest.chunkPagesLess1[index] ?? 0) + 1
  return await openChunk(sealed, manifest.chunkKeys[index] ?? new Uint8Array(0), pages)
}

async function verifyRanges(lineageKey: Uint8Array, image: ImageTable, bytes: Uint8Array): Promise<void> {
  for (const [index, range] of image.ranges.entries()) {
    const content = bytes.subarray(index * RANGE, (index + 1) * RANGE)
    const what = `image ${image.name}: range ${index}`
    if (range.state === 'zero' && !allZero(content)) throw new FormatError('CORRUPT', `${what} is not zero, as its state says`)
    if (range.state === 'digest' && !equal(await rangeDigest(lineageKey, content), range.digest)) {
      throw new FormatError('CORRUPT', `${what} has another digest`)
    }
  }
}
