/**
 * An image drawn in characters: a cell a range where the rows allow it, else a power of two of ranges a cell, so that rows begin at round offsets.
 *
 * A cell of many ranges shows what matters most in them, never an average: nothing that is there is drawn as zero. Letters carry the meaning, colours
 * repeat it, so that the map reads the same without them.
 */
import { styleText } from 'node:util'
import type { DiffCell, Layer, RangeCell } from '../index.ts'
import { formatBytes } from './format.ts'

const RANGE_BYTES = 512 * 1024
const ROWS_MAX = 16
const CELLS_A_ROW = [128, 64, 32, 16] as const
const OFFSET_COLUMNS = 11
const COLUMNS_WITHOUT_TERMINAL = 80

type Style = Parameters<typeof styleText>[0]
type Colour = Extract<Style, string>

export interface Glyph {
  readonly letter: string
  readonly meaning: string
  readonly style: Style
}

export type Paint = (style: Style, text: string) => string

export interface MapSpace {
  /** Characters a line may have. */
  readonly columns: number
  readonly paint: Paint
}

/** Lines of a map, and the glyphs it uses. */
export interface DrawnMap {
  readonly lines: readonly string[]
  readonly used: ReadonlySet<Glyph>
  /** Bytes of the image that a cell stands for. */
  readonly cellBytes: number
}

const ZERO: Glyph = { letter: '.', meaning: 'zero', style: 'gray' }

/** Of each layer: in chunks of earlier snapshots, and in the snapshot's own. */
const LAYER_GLYPHS: Readonly<Record<Layer, { readonly shared: Glyph; readonly own: Glyph }>> = {
  os: layerGlyphs('o', 'os', 'blue', 'blueBright'),
  runtime: layerGlyphs('r', 'runtime', 'yellow', 'yellowBright'),
  function: layerGlyphs('f', 'function', 'green', 'greenBright'),
}

const DIFF_GLYPHS: Readonly<Record<DiffCell, Glyph>> = {
  zero: { ...ZERO, meaning: 'zero in both' },
  same: { letter: '=', meaning: 'same', style: 'blue' },
  changed: { letter: '#', meaning: 'changed', style: ['redBright', 'bold'] },
}

const LEGEND_ORDER: readonly Glyph[] = [
  ...Object.values(LAYER_GLYPHS).flatMap(({ shared, own }) => [shared, own]),
  ZERO,
  DIFF_GLYPHS.same,
  DIFF_GLYPHS.changed,
  DIFF_GLYPHS.zero,
]

const DIFF_ORDER = ['changed', 'same', 'zero'] as const satisfies readonly DiffCell[]

/** A map of where an image's bytes lie: of several ranges in a cell, the layer and owner of most pages that are not zero. */
export function drawLayerMap(cells: readonly RangeCell[], space: MapSpace): DrawnMap {
  return draw(cells, layerGlyph, space)
}

/** A map of what changed: of several ranges in a cell, `changed` before `same` before `zero`. */
export function drawDiffMap(cells: readonly DiffCell[], space: MapSpace): DrawnMap {
  return draw(cells, group => DIFF_GLYPHS[DIFF_ORDER.find(kind => group.includes(kind)) ?? 'zero'], space)
}

/** One line that says what the letters mean, for those that occur. */
export function formatLegend(used: ReadonlySet<Glyph>, paint: Paint): string {
  return LEGEND_ORDER.filter(glyph => used.has(glyph))
    .map(({ letter, meaning, style }) => `${paint(style, letter)} ${meaning}`)
    .join('   ')
}

/** Standard output as a place for maps: as wide as the terminal, or 80 where there is none. */
export function terminalSpace(): MapSpace {
  return { columns: process.stdout.columns ?? COLUMNS_WITHOUT_TERMINAL, paint: paintFor(process.stdout) }
}

/** Colours for a terminal that shows them, unless NO_COLOR asks for none (no-color.org). */
function paintFor(stream: NodeJS.WriteStream): Paint {
  const coloured = stream.isTTY === true && stream.hasColors() && !process.env.NO_COLOR
  return coloured ? (style, text) => styleText(style, text, { validateStream: false }) : (_, text) => text
}

type PickGlyph<Cell> = (group: readonly Cell[]) => Glyph

function draw<Cell>(cells: readonly Cell[], pick: PickGlyph<Cell>, { columns, paint }: MapSpace): DrawnMap {
  const perRow = CELLS_A_ROW.find(count => OFFSET_COLUMNS + count <= columns) ?? CELLS_A_ROW.at(-1)!
  const perCell = 2 ** Math.max(0, Math.ceil(Math.log2(cells.length / (perRow * ROWS_MAX))))
  const cellBytes = perCell * RANGE_BYTES
  const glyphs = chunked(cells, perCell).map(pick)
  const lines = chunked(glyphs, perRow).map((row, index) => {
    const offset = formatBytes(index * perRow * cellBytes)
    return `${offset.padStart(OFFSET_COLUMNS - 1)} ${paintRow(row, paint)}`
  })
  return { lines, used: new Set(glyphs), cellBytes }
}

function layerGlyph(group: readonly RangeCell[]): Glyph {
  const pagesOf = new Map<Glyph, number>()
  for (const { layer, own, pages, zeroPages } of group) {
    if (layer === undefined) continue
    const glyph = LAYER_GLYPHS[layer][own ? 'own' : 'shared']
    pagesOf.set(glyph, (pagesOf.get(glyph) ?? 0) + pages - zeroPages)
  }
  const [most = ZERO] = [...pagesOf].sort(([, a], [, b]) => b - a).map(([glyph]) => glyph)
  return most
}

/** Neighbours of a kind are painted together: a colour code a cell would be most of the output. */
function paintRow(row: readonly Glyph[], paint: Paint): string {
  let painted = ''
  for (let from = 0; from < row.length; ) {
    const glyph = row[from]!
    let to = from + 1
    while (row[to] === glyph) to++
    painted += paint(glyph.style, glyph.letter.repeat(to - from))
    from = to
  }
  return painted
}

function chunked<T>(items: readonly T[], size: number): T[][] {
  return Array.from({ length: Math.ceil(items.length / size) }, (_, index) => items.slice(index * size, (index + 1) * size))
}

function layerGlyphs(letter: string, layer: Layer, shared: Colour, own: Colour): { shared: Glyph; own: Glyph } {
  return {
    shared: { letter, meaning: `${layer}, shared`, style: shared },
    own: { letter: letter.toUpperCase(), meaning: `${layer}, own`, style: [own, 'bold'] },
  }
}
