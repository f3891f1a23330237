/** Manifest to bytes (docs/FORMAT.md section 6). */
import { createCipheriv, hkdfSync } from 'node:crypto'
import { LAYERS } from '../keys.ts'
import { chunkCount, IMAGE_KINDS, LIMITS, type Manifest, type ManifestImage, type Outline, RANGE_STATE } from '../manifest.ts'
import { encodeColumn, VarintWriter } from './column.ts'
import { CLEAR, FRAME, MANIFEST_IV, SEALED } from './fields.ts'
import { encodeMap, type Value } from './messagepack.ts'
import { encodeRuns } from './runs.ts'

/**
 * The manifest's bytes; their SHA-256 is the snapshot's id. The data key must be fresh: it seals this manifest alone.
 * @throws RangeError for one that no reader would accept
 */
export function encodeManifest(manifest: Manifest, dataKey: Uint8Array): Buffer {
  checkLimits(manifest)
  const cleartext = encodeMap(outlineFields(manifest))
  const plain = encodeMap(sealedFields(manifest))
  const front = Buffer.alloc(FRAME.headerBytes + cleartext.length)
  front.write(FRAME.magic, 'latin1')
  front.writeUInt32LE(cleartext.length, 8)
  front.writeUInt32LE(plain.length + FRAME.tagBytes, 12)
  front.set(cleartext, FRAME.headerBytes)
  const cipher = createCipheriv('aes-256-gcm', manifestKey(dataKey), MANIFEST_IV, { authTagLength: FRAME.tagBytes })
  cipher.setAAD(front)
  return Buffer.concat([front, cipher.update(plain), cipher.final(), cipher.getAuthTag()])
}

function checkLimits(manifest: Manifest): void {
  const figures = {
    chunks: chunkCount(manifest),
    segments: manifest.segments.length,
    images: manifest.images.length,
    labels: manifest.labels.size,
    runs: manifest.images.reduce((runs, { map }) => runs + map.runCount, 0),
    imageBytes: manifest.images.reduce((bytes, { sizeBytes }) => bytes + sizeBytes, 0),
  }
  for (const [what, figure] of Object.entries(figures)) {
    const limit = LIMITS[what as keyof typeof figures]
    if (figure > limit) throw new RangeError(`a snapshot of ${figure} ${what}: at most ${limit} are possible`)
  }
}

/** The AEAD key that a data key stands for. */
export function manifestKey(dataKey: Uint8Array): Buffer {
  return Buffer.from(hkdfSync('sha256', dataKey, new Uint8Array(0), FRAME.keyInfo, 32))
}

function outlineFields(outline: Outline): Map<number, Value> {
  const lengths = new VarintWriter()
  for (const bytes of outline.sealedBytes) lengths.write(bytes)
  const fields = new Map<number, Value>([
    [CLEAR.version, 1],
    [CLEAR.layer, LAYERS.indexOf(outline.layer)],
  ])
  if (outline.parent !== undefined) fields.set(CLEAR.parent, Buffer.from(outline.parent, 'hex'))
  if (outline.sameContentAs !== undefined) fields.set(CLEAR.sameContentAs, Buffer.from(outline.sameContentAs, 'hex'))
  fields.set(
    CLEAR.segments,
    outline.segments.map(s => [Buffer.from(s.origin ?? '', 'hex'), LAYERS.indexOf(s.layer), s.domain, s.count]),
  )
  fields.set(CLEAR.ids, outline.ids)
  fields.set(CLEAR.sealedBytes, encodeColumn(lengths.done()))
  return fields
}

function sealedFields(manifest: Manifest): Map<number, Value> {
  const fields = new Map<number, Value>()
  if (manifest.tenant !== undefined) fields.set(SEALED.tenant, manifest.tenant)
  fields.set(SEALED.createdAtMs, manifest.createdAtMs)
  fields.set(
    SEALED.labels,
    [...manifest.labels].sort(([a], [b]) => (a < b ? -1 : 1)),
  )
  fields.set(SEALED.lineageKey, manifest.lineageKey)
  fields.set(SEALED.keys, manifest.keys)
  fields.set(SEALED.pages, encodeColumn(manifest.pages.map(pages => pages - 1)))
  fields.set(SEALED.images, manifest.images.map(imageFields))
  return fields
}

function imageFields(image: ManifestImage): Value {
  const { states, digests } = image.digests
  const known: Uint8Array[] = []
  states.forEach((state, range) => {
    if (state === RANGE_STATE.known) known.push(digests.subarray(range * 16, range * 16 + 16))
  })
  const kind = IMAGE_KINDS.indexOf(image.kind)
  return [image.name, kind, image.sizeBytes, image.map.runCount, encodeRuns(image.map), encodeColumn(states), Buffer.concat(known)]
}
