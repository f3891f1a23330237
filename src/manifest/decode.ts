/**
 * Bytes to manifest. The input is hostile until the tag was checked, and its size even then: every limit is checked before what it bounds is decoded or
 * decompressed. Anything wrong is one error, BAD_FORMAT, that names the snapshot.
 */
import { createDecipheriv } from 'node:crypto'
import { pageCount, rangeCount } from '../chunk.ts'
import { ThawError } from '../errors.ts'
import { LAYERS, type Layer } from '../keys.ts'
import {
  DIGEST_BYTES,
  IMAGE_KINDS,
  LIMITS,
  type Manifest,
  type ManifestImage,
  type Outline,
  RANGE_STATE,
  type RangeDigests,
  type Segment,
} from '../manifest.ts'
import { checkImageName, checkLabel, checkTenantName, SHORT_ID } from '../names.ts'
import { SEALED_BYTES_MAX } from '../seal.ts'
import { decodeColumn, VARINT_BYTES_MAX, VarintReader } from './column.ts'
import { manifestKey } from './encode.ts'
import { CLEAR, FRAME, MANIFEST_IV, SEALED } from './fields.ts'
import { decodeRuns } from './runs.ts'
import { bytesOf, Fields, fail, items, text, uintBelow, unsigned } from './value.ts'

const HEX_ID = 32

interface Parts {
  readonly front: Uint8Array
  readonly cleartext: Uint8Array
  readonly sealed: Uint8Array
}

/**
 * What anyone can read of a manifest. `id` (hex) names it in errors; the caller has checked that it is the hash of the bytes.
 * @throws BAD_FORMAT
 */
export function decodeOutline(bytes: Uint8Array, id: string): Outline {
  return guarded(id, () => outlineOf(split(bytes).cleartext))
}

/**
 * The whole manifest.
 * @throws WRONG_KEY if the data key does not open it, BAD_FORMAT
 */
export function decodeManifest(bytes: Uint8Array, dataKey: Uint8Array, id: string): Manifest {
  return guarded(id, () => {
    const parts = split(bytes)
    const outline = outlineOf(parts.cleartext)
    return { ...outline, ...sealedOf(unseal(parts, dataKey, id), outline.sealedBytes.length) }
  })
}

function guarded<T>(id: string, decode: () => T): T {
  try {
    return decode()
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause
    throw new ThawError('BAD_FORMAT', `manifest ${id}: ${cause.message}`, { cause, object: id })
  }
}

function split(bytes: Uint8Array): Parts {
  if (bytes.length > LIMITS.manifestBytes) fail(`${bytes.length} bytes, more than ${LIMITS.manifestBytes}`)
  if (bytes.length < FRAME.headerBytes + FRAME.tagBytes) fail('cut short')
  if (Buffer.from(bytes.buffer, bytes.byteOffset, 8).toString('latin1') !== FRAME.magic) fail('not a manifest, or of a newer version')
  const view = new DataView(bytes.buffer, bytes.byteOffset)
  const clearEnd = FRAME.headerBytes + view.getUint32(8, true)
  const sealedBytes = view.getUint32(12, true)
  if (clearEnd + sealedBytes !== bytes.length || sealedBytes < FRAME.tagBytes) fail('its parts do not have the lengths it says')
  return { front: bytes.subarray(0, clearEnd), cleartext: bytes.subarray(FRAME.headerBytes, clearEnd), sealed: bytes.subarray(clearEnd) }
}

function unseal({ front, sealed }: Parts, dataKey: Uint8Array, id: string): Uint8Array {
  const decipher = createDecipheriv('aes-256-gcm', manifestKey(dataKey), MANIFEST_IV, { authTagLength: FRAME.tagBytes })
  decipher.setAAD(front)
  decipher.setAuthTag(sealed.subarray(sealed.length - FRAME.tagBytes))
  const plain = decipher.update(sealed.subarray(0, sealed.length - FRAME.tagBytes))
  try {
    decipher.final()
  } catch (cause) {
    throw new ThawError('WRONG_KEY', `manifest ${id}: its data key does not open it`, { cause, object: id })
  }
  return plain
}

function outlineOf(cleartext: Uint8Array): Outline {
  const fields = new Fields(cleartext, CLEAR)
  if (unsigned(fields.required(CLEAR.version)) !== 1) fail('of a version this build does not know')
  const parent = fields.optional(CLEAR.parent)
  const sameContentAs = fields.optional(CLEAR.sameContentAs)
  const ids = bytesOf(fields.required(CLEAR.ids))
  const chunks = ids.length / HEX_ID
  if (!Number.isInteger(chunks) || chunks > LIMITS.chunks) fail(`${chunks} chunks`)
  return {
    layer: layerOf(fields.required(CLEAR.layer)),
    parent: parent === undefined ? undefined : hexId(bytesOf(parent)),
    sameContentAs: sameContentAs === undefined ? undefined : hexId(bytesOf(sameContentAs)),
    segments: segmentsOf(items(fields.required(CLEAR.segments), LIMITS.segments), chunks),
    ids,
    sealedBytes: lengthsOf(bytesOf(fields.required(CLEAR.sealedBytes)), chunks),
  }
}

function layerOf(value: unknown): Layer {
  return LAYERS[uintBelow(value, LAYERS.length)]!
}

function hexId(bytes: Uint8Array): string {
  if (bytes.length !== HEX_ID) fail('an id that is not 32 bytes')
  return Buffer.from(bytes).toString('hex')
}

function segmentsOf(values: readonly unknown[], chunks: number): Segment[] {
  let total = 0
  const segments = values.map(value => {
    const [origin, layer, domain, count] = items(value, 4, 4)
    const from = bytesOf(origin)
    const segment = {
      origin: from.length === 0 ? undefined : hexId(from),
      layer: layerOf(layer),
      domain: text(domain),
      count: uintBelow(count, LIMITS.chunks + 1),
    }
    if (!SHORT_ID.test(segment.domain)) fail('a domain that is not 16 hex digits')
    total += segment.count
    return segment
  })
  if (total !== chunks) fail('segments do not cover the chunks')
  return segments
}

function lengthsOf(column: Uint8Array, chunks: number): Uint32Array {
  const reader = new VarintReader(decodeColumn(column, chunks * VARINT_BYTES_MAX))
  const lengths = new Uint32Array(chunks)
  for (let i = 0; i < chunks; i++) {
    const bytes = reader.read()
    if (bytes > SEALED_BYTES_MAX) fail(`a chunk of ${bytes} bytes`)
    lengths[i] = bytes
  }
  reader.end()
  return lengths
}

function sealedOf(plain: Uint8Array, chunks: number): Omit<Manifest, keyof Outline> {
  const fields = new Fields(plain, SEALED)
  const tenant = fields.optional(SEALED.tenant)
  const keys = bytesOf(fields.required(SEALED.keys))
  if (keys.length !== chunks * HEX_ID) fail('not one key a chunk')
  if (tenant !== undefined) checkTenantName(text(tenant))
  const lineageKey = bytesOf(fields.required(SEALED.lineageKey))
  if (lineageKey.length !== DIGEST_BYTES) fail('a lineage key that is not 16 bytes')
  const pages = decodeColumn(bytesOf(fields.required(SEALED.pages)), chunks).map(value => value + 1)
  if (pages.length !== chunks || pages.some(count => count === 0 || count > 128)) fail('page counts that are not 1 to 128')
  return {
    tenant: tenant === undefined ? undefined : text(tenant),
    createdAtMs: unsigned(fields.required(SEALED.createdAtMs)),
    labels: labelsOf(items(fields.required(SEALED.labels), LIMITS.labels)),
    lineageKey,
    keys,
    pages,
    images: imagesOf(items(fields.required(SEALED.images), LIMITS.images), pages),
  }
}

function labelsOf(values: readonly unknown[]): Map<string, string> {
  const labels = new Map<string, string>()
  let previous = ''
  for (const pair of values) {
    const [name, value] = items(pair, 2, 2).map(text) as [string, string]
    if (name <= previous) fail('labels are not sorted')
    checkLabel(name, value)
    labels.set(name, value)
    previous = name
  }
  return labels
}

function imagesOf(values: readonly unknown[], chunkPages: Uint8Array): ManifestImage[] {
  const names = new Set<string>()
  let runsLeft: number = LIMITS.runs
  let bytesLeft: number = LIMITS.imageBytes
  return values.map(value => {
    const [name, kind, size, runs, runColumn, states, digests] = items(value, 7, 7)
    const image = text(name)
    checkImageName(image)
    if (names.has(image)) fail(`two images named ${image}`)
    names.add(image)
    const sizeBytes = uintBelow(size, bytesLeft + 1)
    bytesLeft -= sizeBytes
    const runCount = uintBelow(runs, runsLeft + 1)
    runsLeft -= runCount
    return {
      name: image,
      kind: IMAGE_KINDS[uintBelow(kind, IMAGE_KINDS.length)]!,
      sizeBytes,
      map: decodeRuns(bytesOf(runColumn), runCount, pageCount(sizeBytes), chunkPages),
      digests: digestsOf(bytesOf(states), bytesOf(digests), rangeCount(sizeBytes)),
    }
  })
}

function digestsOf(statesColumn: Uint8Array, known: Uint8Array, ranges: number): RangeDigests {
  const states = decodeColumn(statesColumn, ranges)
  if (states.length !== ranges) fail('not one state a range')
  const digests = new Uint8Array(ranges * DIGEST_BYTES)
  let at = 0
  states.forEach((state, range) => {
    if (state > RANGE_STATE.unknown) fail(`range state ${state}`)
    if (state !== RANGE_STATE.known) return
    digests.set(known.subarray(at, at + DIGEST_BYTES), range * DIGEST_BYTES)
    at += DIGEST_BYTES
  })
  if (at !== known.length) fail('not one digest a known range')
  return { states, digests }
}
