/** The sealed part of a manifest, once it is open (FORMAT.md, section 6). */
import { PAGE, RANGE } from './bytes.ts'
import { decodeColumn } from './column.ts'
import { FormatError, refuse } from './errors.ts'
import { array, binary, number, refuseUnknown, split, text } from './fields.ts'
import { decodeMap, type Value } from './msgpack.ts'
import { isImageName, isLabelName, isLabelValue, isTenant } from './names.ts'
import { decodeRuns, type Run } from './runs.ts'

export type ImageKind = 'memory' | 'disk' | 'blob'

/** What is known of a range; a digest is there where its state says so. */
export type RangeInfo = { state: 'zero' } | { state: 'digest'; digest: Uint8Array } | { state: 'unknown' }

export interface ImageTable {
  name: string
  kind: ImageKind
  sizeBytes: number
  runs: Run[]
  ranges: RangeInfo[]
}

export interface SealedPart {
  tenant: string | null
  /** Milliseconds since 1970. */
  createdAt: number
  labels: [name: string, value: string][]
  lineageKey: Uint8Array
  chunkKeys: Uint8Array[]
  /** By chunk, one less than its pages, as stored. */
  chunkPagesLess1: Uint8Array
  images: ImageTable[]
}

const KINDS: readonly ImageKind[] = ['memory', 'disk', 'blob']
const MAX_LABELS = 64
const MAX_IMAGES = 256
const MAX_IMAGES_BYTES = 2 ** 40
const MAX_RUNS = 8_388_608

export function decodeSealed(bytes: Uint8Array, chunkCount: number): SealedPart {
  const map = decodeMap(bytes)
  refuseUnknown(map, 7, 'manifest: sealed part')

  const tenant = map.has(1) ? text(map.get(1), 'manifest: tenant') : null
  refuse(tenant !== null && !isTenant(tenant), 'manifest: tenant is not a name of one')

  const pageColumn = binary(map.get(6), 'manifest: page counts')
  const chunkPagesLess1 = decodeColumn(pageColumn, chunkCount, chunkCount, 'manifest: page counts')
  refuse(
    chunkPagesLess1.some(value => value > 127),
    'manifest: a chunk of more than 128 pages',
  )

  return {
    tenant,
    createdAt: number(map.get(2), 'manifest: creation time'),
    labels: decodeLabels(array(map.get(3), 'manifest: labels')),
    lineageKey: binary(map.get(4), 'manifest: lineage key', 16),
    chunkKeys: split(binary(map.get(5), 'manifest: chunk keys', 32 * chunkCount), 32),
    chunkPagesLess1,
    images: decodeImages(array(map.get(7), 'manifest: images'), chunkPagesLess1),
  }
}

function decodeLabels(values: Value[]): [string, string][] {
  refuse(values.length > MAX_LABELS, 'manifest: more than 64 labels')
  let previous = ''
  return values.map(item => {
    const [nameValue, valueValue] = array(item, 'manifest: a label', 2)
    const name = text(nameValue, 'manifest: name of a label')
    const value = text(valueValue, 'manifest: value of a label')
    refuse(!isLabelName(name) || !isLabelValue(value), 'manifest: a label that is none')
    // Names are ASCII, so JavaScript's order is that of their bytes.
    refuse(name <= previous, 'manifest: labels are not sorted, or one is there twice')
    previous = name
    return [name, value]
  })
}

function decodeImages(values: Value[], chunkPagesLess1: Uint8Array): ImageTable[] {
  refuse(values.length > MAX_IMAGES, 'manifest: more than 256 images')
  const tables = values.map(value => array(value, 'manifest: an image', 7))
  const runCount = tables.reduce((sum, table) => sum + number(table[3], 'manifest: run count'), 0)
  refuse(runCount > MAX_RUNS, 'manifest: more than 8,388,608 runs')
  const sizeBytes = tables.reduce((sum, table) => sum + number(table[2], 'manifest: size of an image'), 0)
  refuse(sizeBytes > MAX_IMAGES_BYTES, 'manifest: images larger than 1 TiB together')
  const images = tables.map(table => decodeImage(table, chunkPagesLess1))
  refuse(new Set(images.map(image => image.name)).size !== images.length, 'manifest: two images of one name')
  return images
}

function decodeImage([nameValue, kindValue, size, runCount, runs, states, digests]: Value[], chunkPagesLess1: Uint8Array): ImageTable {
  const name = text(nameValue, 'manifest: name of an image')
  refuse(!isImageName(name), 'manifest: name of an image is none')
  const what = `manifest: image ${name}`
  const kind = KINDS[number(kindValue, `${what}: kind`)]
  if (kind === undefined) throw new FormatError('BAD_FORMAT', `${what}: unknown kind`)
  const sizeBytes = number(size, `${what}: size`)
  const pages = Math.ceil(sizeBytes / PAGE)
  return {
    name,
    kind,
    sizeBytes,
    runs: decodeRuns(binary(runs, `${what}: runs`), number(runCount, `${what}: run count`), pages, chunkPagesLess1, `${what}: runs`),
    ranges: decodeRanges(binary(states, `${what}: range states`), binary(digests, `${what}: range digests`), sizeBytes, what),
  }
}

function decodeRanges(stateColumn: Uint8Array, digests: Uint8Array, sizeBytes: number, what: string): RangeInfo[] {
  const count = Math.ceil(sizeBytes / RANGE)
  const states = decodeColumn(stateColumn, count, count, `${what}: range states`)
  const known = states.filter(state => state === 1).length
  refuse(digests.length !== 16 * known, `${what}: other range digests than the states tell`)
  let next = 0
  return Array.from(states, (state): RangeInfo => {
    if (state === 0) return { state: 'zero' }
    if (state === 2) return { state: 'unknown' }
    if (state !== 1) throw new FormatError('BAD_FORMAT', `${what}: unknown range state ${state}`)
    next += 16
    return { state: 'digest', digest: digests.subarray(next - 16, next) }
  })
}
