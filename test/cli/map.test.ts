import { describe, expect, it } from 'vitest'
import { joinCells } from '../../src/cli/inspect.ts'
import { drawDiffMap, drawLayerMap, formatLegend, type Paint } from '../../src/cli/map.ts'
import type { DiffCell, Layer, RangeCell } from '../../src/index.ts'

const plain: Paint = (_, text) => text
const NARROW = { columns: 80, paint: plain }

function cell(layer: Layer | undefined, own = false, used = 128): RangeCell {
  return { layer, own, pages: 128, zeroPages: layer === undefined ? 128 : 128 - used }
}

const zero = cell(undefined)

describe('drawLayerMap', () => {
  it('draws a letter a range, capitals for its own', () => {
    const cells = [cell('os'), cell('os', true), cell('runtime'), cell('runtime', true), cell('function'), cell('function', true), zero]
    const drawn = drawLayerMap(cells, NARROW)
    expect(drawn.lines).toEqual(['       0 B oOrRfF.'])
    expect(drawn.cellBytes).toBe(524_288)
  })

  it('begins each row at its offset', () => {
    const drawn = drawLayerMap(
      Array.from({ length: 130 }, () => zero),
      NARROW,
    )
    expect(drawn.lines.map(line => line.slice(0, 12))).toEqual(['       0 B .', '    32 MiB .', '    64 MiB .'])
    expect(drawn.lines.at(-1)).toBe('    64 MiB ..')
  })

  it('uses the width there is, and no more', () => {
    for (const columns of [20, 60, 80, 100, 139, 300]) {
      const { lines } = drawLayerMap(
        Array.from({ length: 5000 }, () => cell('os')),
        { columns, paint: plain },
      )
      expect(Math.max(...lines.map(line => line.length))).toBeLessThanOrEqual(Math.max(columns, 27))
      expect(lines.length).toBeLessThanOrEqual(16)
    }
  })

  it('scales by powers of two, and 1 TiB still fits', () => {
    const { lines, cellBytes } = drawLayerMap(
      Array.from({ length: 2 ** 21 }, () => zero),
      NARROW,
    )
    expect(lines).toHaveLength(16)
    expect(cellBytes).toBe(2 ** 30)
  })

  it('never draws zero where something is', () => {
    const cells = Array.from({ length: 2048 }, (_, range) => (range === 777 ? cell('runtime', true, 1) : zero))
    const { lines } = drawLayerMap(cells, NARROW)
    expect(lines.join('').replaceAll(/[^oOrRfF]/g, '')).toBe('R')
  })

  it('gives a cell of many ranges to whom most of its pages are', () => {
    const pair = [cell('os', false, 10), cell('function', true, 100)]
    const cells = Array.from({ length: 2048 }, (_, range) => pair[range % 2]!)
    expect(drawLayerMap(cells, NARROW).lines[0]).toBe(`       0 B ${'F'.repeat(64)}`)
  })

  it('paints runs of a kind at once, and the text is the same', () => {
    const cells = [cell('os'), cell('os'), zero, cell('function', true)]
    const painted: string[] = []
    const drawn = drawLayerMap(cells, {
      columns: 80,
      paint: (_, text) => {
        painted.push(text)
        return text
      },
    })
    expect(painted).toEqual(['oo', '.', 'F'])
    expect(drawn.lines).toEqual(drawLayerMap(cells, NARROW).lines)
  })

  it('has a legend of what occurs', () => {
    const { used } = drawLayerMap([cell('os'), zero, cell('os')], NARROW)
    expect(formatLegend(used, plain)).toBe('o os, shared   . zero')
  })

  it('draws nothing of an empty image', () => {
    expect(drawLayerMap([], NARROW).lines).toEqual([])
  })
})

function diffCell(range: number): DiffCell {
  if (range === 5) return 'changed'
  return range < 64 ? 'same' : 'zero'
}

describe('drawDiffMap', () => {
  it('shows a change whatever stands beside it', () => {
    const cells = Array.from({ length: 2048 }, (_, range) => diffCell(range))
    const { lines } = drawDiffMap(cells, NARROW)
    expect(lines[0]).toBe(`       0 B ==#${'='.repeat(29)}${'.'.repeat(32)}`)
  })
})

describe('joinCells', () => {
  it('joins neighbours of a kind and loses no page', () => {
    const cells = [zero, zero, cell('os', false, 100), cell('os', false, 28), cell('os', true)]
    expect(joinCells(cells)).toEqual([
      { firstRange: 0, ranges: 2, layer: undefined, own: false, pages: 256, zeroPages: 256 },
      { firstRange: 2, ranges: 2, layer: 'os', own: false, pages: 256, zeroPages: 128 },
      { firstRange: 4, ranges: 1, layer: 'os', own: true, pages: 128, zeroPages: 0 },
    ])
  })
})
