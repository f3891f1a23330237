/** Manifests (FORMAT.md, section 6): the frame around the two parts, the cleartext, and the opening of the sealed part. */
import { ascii, equal, hex, isHex, readU32 } from './bytes.ts'
import { MAX_SEALED } from './chunks.ts'
import { decodeColumn } from './column.ts'
import { aesGcmOpen, hkdfSha256 } from './crypto.ts'
import { refuse } from './errors.ts'
import { array, binary, number, refuseUnknown, split, text } from './fields.ts'
import { decodeMap } from './msgpack.ts'
import { decodeSealed, type SealedPart } from './sealed-part.ts'
import { Varints } from './varint.ts'

export interface Segment {
  /** Id of the snapshot that first stored the chunks; null for this one. */
  origin: string | null
  layer: number
  domain: string
  count: number
}

export interface ClearPart {
  layer: number
  parent: string | null
  sameContentAs: string | null
  segments: Segment[]
  chunkIds: Uint8Array[]
  sealedLengths: number[]
}

export type Manifest = ClearPart & SealedPart

const MAGIC = ascii('THAWMAN1')
const HEADER = MAGIC.length + 8
const MAX_MANIFEST = 256 * 1024 * 1024
const MAX_CHUNKS = 1_048_576
const MAX_SEGMENTS = 4096

export async function decodeManifest(bytes: Uint8Array, dataKey: Uint8Array): Promise<Manifest> {
  refuse(bytes.length > MAX_MANIFEST, 'manifest: larger than 256 MiB')
  refuse(bytes.length < HEADER || !equal(bytes.subarray(0, MAGIC.length), MAGIC), 'manifest: does not begin as one')
  const clearEnd = HEADER + readU32(bytes, MAGIC.length)
  const end = clearEnd + readU32(bytes, MAGIC.length + 4)
  refuse(end !== bytes.length, 'manifest: not as long as its header says')
  refuse(end - clearEnd < 16, 'manifest: the sealed part is too short for its tag')

  const key = await hkdfSha256(dataKey, ascii('thaw-manifest-1'), 32)
  const sealed = await aesGcmOpen(key, new Uint8Array(12), bytes.subarray(0, clearEnd), bytes.subarray(clearEnd), 'manifest')
  const clear = decodeClear(bytes.subarray(HEADER, clearEnd))
  return { ...clear, ...decodeSealed(sealed, clear.chunkIds.length) }
}

export function decodeClear(bytes: Uint8Array): ClearPart {
  const map = decodeMap(bytes)
  refuse(number(map.get(1), 'manifest: version') !== 1, 'manifest: of unknown version')
  refuseUnknown(map, 7, 'manifest: cleartext')
  const optionalId = (key: number, what: string): string | null => (map.has(key) ? hex(binary(map.get(key), what, 32)) : null)

  const ids = binary(map.get(6), 'manifest: chunk ids')
  refuse(ids.length % 32 !== 0, 'manifest: chunk ids are not of 32 bytes each')
  const count = ids.length / 32
  refuse(count > MAX_CHUNKS, 'manifest: more than 1,048,576 chunks')

  const segmentValues = array(map.get(5), 'manifest: segments')
  refuse(segmentValues.length > MAX_SEGMENTS, 'manifest: more than 4,096 segments')
  const segments = segmentValues.map(value => decodeSegment(array(value, 'manifest: a segment', 4)))
  refuse(segments.reduce((sum, segment) => sum + segment.count, 0) !== count, 'manifest: the segments do not add up to the chunks')

  const column = decodeColumn(binary(map.get(7), 'manifest: sealed lengths'), count, 5 * count, 'manifest: sealed lengths')
  const varints = new Varints(column)
  const sealedLengths = Array.from({ length: count }, () => varints.next())
  varints.end()
  refuse(
    sealedLengths.some(length => length < 5 || length > MAX_SEALED),
    'manifest: a sealed length no chunk can have',
  )

  return {
    layer: decodeLayer(number(map.get(2), 'manifest: layer')),
    parent: optionalId(3, 'manifest: parent'),
    sameContentAs: optionalId(4, 'manifest: same content as'),
    segments,
    chunkIds: split(ids, 32),
    sealedLengths,
  }
}

function decodeSegment([origin, layer, domain, count]: ReturnType<typeof array>): Segment {
  const id = binary(origin, 'manifest: origin of a segment')
  refuse(id.length !== 0 && id.length !== 32, 'manifest: origin of a segment is not an id')
  const domainText = text(domain, 'manifest: domain of a segment')
  refuse(!isHex(domainText, 16), 'manifest: domain of a segment is not 16 hex digits')
  return {
    origin: id.length === 0 ? null : hex(id),
    layer: decodeLayer(number(layer, 'manifest: layer of a segment')),
    domain: domainText,
    count: number(count, 'manifest: count of a segment'),
  }
}

function decodeLayer(layer: number): number {
  refuse(layer > 2, `manifest: unknown layer ${layer}`)
  return layer
}
