/** `thaw diff`: what differs between two snapshots, in figures and on a map of each image. */
import type { ImageDiff, SnapshotDiff } from '../index.ts'
import { connectWithKeys } from './connect.ts'
import { type Column, formatBytes, formatCount, formatFields, formatTable } from './format.ts'
import type { Invocation } from './invocation.ts'
import { drawDiffMap, formatLegend, type Glyph, type MapSpace, terminalSpace } from './map.ts'

const COLUMNS: readonly Column[] = [
  { title: 'IMAGE' },
  { title: 'STATE' },
  ...['SIZE A', 'SIZE B', 'CHANGED', 'PAGES', 'SHARED'].map(title => ({ title, right: true })),
]

export async function diff(invocation: Invocation, a: string, b: string): Promise<void> {
  const { store } = await connectWithKeys(invocation)
  await using _ = store
  const difference = await store.diff(a, b, { signal: invocation.signal })
  invocation.output.answer(documentOf(difference), () => linesOf(difference, terminalSpace()))
}

/** As the library gives it, but neighbours of a kind joined in the maps. */
function documentOf(difference: SnapshotDiff): object {
  return { ...difference, images: difference.images.map(image => ({ ...image, map: joinCells(image.map) })) }
}

function joinCells(cells: ImageDiff['map']): object[] {
  const joined: { state: string; firstRange: number; ranges: number }[] = []
  for (const [firstRange, state] of cells.entries()) {
    const last = joined.at(-1)
    if (last?.state === state) last.ranges++
    else joined.push({ state, firstRange, ranges: 1 })
  }
  return joined
}

function linesOf({ a, b, images, shared, onlyA, onlyB }: SnapshotDiff, space: MapSpace): string[] {
  const totals = ({ chunks, sealedBytes }: SnapshotDiff['shared']): string => `${formatCount(chunks, 'chunk')}, ${formatBytes(sealedBytes)}`
  return [
    ...formatFields([
      ['a', a],
      ['b', b],
      ['in both', totals(shared)],
      ['only in a', totals(onlyA)],
      ['only in b', totals(onlyB)],
    ]),
    '',
    ...formatTable(COLUMNS, images.map(row)),
    '',
    ...mapsOf(images, space),
  ]
}

function row({ name, state, sizeBytesA, sizeBytesB, changedBytes, changedPages, sharedBytes }: ImageDiff): string[] {
  const size = (bytes: number | undefined): string => (bytes === undefined ? '–' : formatBytes(bytes))
  return [name, state, size(sizeBytesA), size(sizeBytesB), formatBytes(changedBytes), formatCount(changedPages), formatBytes(sharedBytes)]
}

function mapsOf(images: readonly ImageDiff[], space: MapSpace): string[] {
  const used = new Set<Glyph>()
  const lines = images.flatMap(({ name, state, map }) => {
    const drawn = drawDiffMap(map, space)
    for (const glyph of drawn.used) used.add(glyph)
    return [`${name}: ${state}, ${formatBytes(drawn.cellBytes)} a cell`, ...drawn.lines, '']
  })
  return [...lines, formatLegend(used, space.paint)]
}
