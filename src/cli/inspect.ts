/**
 * `thaw inspect`: what a snapshot is. With the keys its images, where their bytes come from, and a map of each; without, what the cleartext of its manifest tells.
 */
import { type ImageFigures, type Inspection, LAYERS, type RangeCell, type SegmentFigures, type SnapshotDetails } from '../index.ts'
import { connect } from './connect.ts'
import {
  type Column,
  formatAge,
  formatBytes,
  formatBytesAndPages,
  formatCount,
  formatFields,
  formatRatio,
  formatTable,
  oneLine,
  shortId,
} from './format.ts'
import type { Invocation } from './invocation.ts'
import { drawLayerMap, formatLegend, type Glyph, type MapSpace, terminalSpace } from './map.ts'

const SEALED_PART = 'Its tenant, images, labels and page map are sealed: with a keyring that can open it (--keyring FILE) they are shown.'

const IMAGE_COLUMNS: readonly Column[] = [
  { title: 'IMAGE' },
  { title: 'KIND' },
  ...['SIZE', 'ZERO', 'OWN', 'SHARED', 'OS', 'RUNTIME', 'FUNCTION', 'RUNS', 'CHUNKS'].map(title => ({ title, right: true })),
]

const SEGMENT_COLUMNS: readonly Column[] = [
  { title: 'CHUNKS FROM' },
  { title: 'LAYER' },
  { title: 'DOMAIN' },
  { title: 'CHUNKS', right: true },
  { title: 'SEALED', right: true },
]

export async function inspect(invocation: Invocation, ref: string): Promise<void> {
  await using store = await connect(invocation)
  const inspection = await store.inspect(ref, { signal: invocation.signal })
  invocation.output.answer(documentOf(inspection), () => linesOf(inspection, terminalSpace()))
}

/** As the library gives it, but neighbours of a kind joined in the maps: a cell each would be megabytes. */
function documentOf(inspection: Inspection): object {
  const { details } = inspection
  if (details === undefined) return inspection
  return { ...inspection, details: { ...details, images: details.images.map(image => ({ ...image, map: joinCells(image.map) })) } }
}

interface JoinedCells extends RangeCell {
  readonly firstRange: number
  readonly ranges: number
}

export function joinCells(cells: readonly RangeCell[]): JoinedCells[] {
  const joined: JoinedCells[] = []
  for (const [firstRange, cell] of cells.entries()) {
    const last = joined.at(-1)
    if (last === undefined || last.layer !== cell.layer || last.own !== cell.own) {
      joined.push({ firstRange, ranges: 1, ...cell })
      continue
    }
    const { zeroPages, pages, ranges } = last
    joined[joined.length - 1] = { ...last, ranges: ranges + 1, zeroPages: zeroPages + cell.zeroPages, pages: pages + cell.pages }
  }
  return joined
}

function linesOf(inspection: Inspection, space: MapSpace): string[] {
  const { details, segments } = inspection
  const lines = [...formatFields(fieldsOf(inspection)), '']
  if (details !== undefined) lines.push(...formatTable(IMAGE_COLUMNS, details.images.map(imageRow)), '')
  lines.push(...formatTable(SEGMENT_COLUMNS, segments.map(segmentRow)), '')
  lines.push(...(details === undefined ? [SEALED_PART] : mapsOf(details.images, space)))
  return lines
}

function fieldsOf(inspection: Inspection): [string, string][] {
  const { id, root, layer, parent, sameContentAs, manifestBytes, chunks, sealedBytes, ownChunks, ownSealedBytes, details } = inspection
  const compressed = details && details.pagesBytes > 0 ? `, compressed ${formatRatio(details.pagesBytes, sealedBytes)}` : ''
  const own = `${formatCount(ownChunks)} its own, ${formatBytes(ownSealedBytes)}`
  return [
    ['snapshot', id],
    ['layer', layer],
    ...(details === undefined ? [] : detailFields(details)),
    ['parent', parent ?? 'none'],
    ...(sameContentAs === undefined ? [] : [['same content as', sameContentAs] satisfies [string, string]]),
    ['root', root],
    ['chunks', `${formatCount(chunks)}, ${formatBytes(sealedBytes)} sealed${compressed}; ${own}`],
    ['manifest', formatBytes(manifestBytes)],
  ]
}

function detailFields({ tenant, createdAt, labels }: SnapshotDetails): [string, string][] {
  return [
    ['tenant', tenant ?? 'none (the platform)'],
    ['created', `${createdAt.toISOString()}, ${formatAge(createdAt)}`],
    ...[...labels].map(([name, value]): [string, string] => ['label', oneLine(`${name}=${value}`)]),
  ]
}

function imageRow({ name, kind, sizeBytes, zeroBytes, ownBytes, sharedBytes, byLayer, runs, chunks }: ImageFigures): string[] {
  const bytes = [sizeBytes, zeroBytes, ownBytes, sharedBytes, ...LAYERS.map(layer => byLayer[layer])]
  return [name, kind, ...bytes.map(formatBytes), formatCount(runs), formatCount(chunks)]
}

function segmentRow({ origin, layer, domain, chunks, sealedBytes }: SegmentFigures): string[] {
  return [origin === undefined ? 'this snapshot' : shortId(origin), layer, domain, formatCount(chunks), formatBytes(sealedBytes)]
}

function mapsOf(images: readonly ImageFigures[], space: MapSpace): string[] {
  const used = new Set<Glyph>()
  const lines = images.flatMap(({ name, sizeBytes, map }) => {
    const drawn = drawLayerMap(map, space)
    for (const glyph of drawn.used) used.add(glyph)
    return [`${name}: ${formatBytesAndPages(sizeBytes)}, ${formatBytes(drawn.cellBytes)} a cell`, ...drawn.lines, '']
  })
  return [...lines, formatLegend(used, space.paint)]
}
