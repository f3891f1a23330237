import { describe, expect, it } from 'vitest'
import {
  formatAge,
  formatBytes,
  formatBytesAndPages,
  formatCount,
  formatDuration,
  formatLatency,
  formatRatio,
  formatShare,
  formatTable,
  formatTiers,
  oneLine,
} from '../../src/cli/format.ts'

const KIB = 1024
const MIB = 1024 * KIB
const GIB = 1024 * MIB

describe('formatBytes', () => {
  it.each([
    [0, '0 B'],
    [1023, '1023 B'],
    [1024, '1 KiB'],
    [2.35 * MIB, '2.35 MiB'],
    [14.5 * MIB, '14.5 MiB'],
    [512 * MIB, '512 MiB'],
    [9.999 * MIB, '10.0 MiB'],
    [99.96 * MIB, '100 MiB'],
    [30 * GIB, '30 GiB'],
    [2 ** 40, '1 TiB'],
    [2 ** 60, '1024 PiB'],
  ])('%d is %s', (bytes, text) => {
    expect(formatBytes(bytes)).toBe(text)
  })

  it('never shows 1024 of a unit that has a next one', () => {
    expect(formatBytes(1024 * KIB - 1)).toBe('1.00 MiB')
    expect(formatBytes(GIB - 1)).toBe('1.00 GiB')
  })

  it('counts a page that is begun', () => {
    expect(formatBytesAndPages(4097)).toBe('4.00 KiB (2 pages)')
    expect(formatBytesAndPages(4096)).toBe('4 KiB (1 page)')
  })
})

describe('formatCount', () => {
  it.each([
    [0, '0'],
    [999, '999'],
    [1000, '1,000'],
    [1234567, '1,234,567'],
  ])('%d is %s', (count, text) => {
    expect(formatCount(count)).toBe(text)
  })

  it('takes a noun', () => {
    expect([formatCount(1, 'chunk'), formatCount(2048, 'chunk')]).toEqual(['1 chunk', '2,048 chunks'])
  })
})

describe('formatShare', () => {
  it('says all or nothing only where it is', () => {
    expect([formatShare(0, 10), formatShare(1, 1e9), formatShare(1e9 - 1, 1e9), formatShare(5, 5), formatShare(0, 0)]).toEqual([
      '0 %',
      '1 %',
      '99 %',
      '100 %',
      '0 %',
    ])
  })

  it('has no ratio to nothing', () => {
    expect([formatRatio(33, 10), formatRatio(33, 0)]).toEqual(['3.30 : 1', '–'])
  })
})

describe('times', () => {
  it.each([
    [0.4, '0 ms'],
    [340, '340 ms'],
    [2345, '2.3 s'],
    [59_000, '59 s'],
    [80_000, '1 min 20 s'],
    [7_500_000, '2 h 5 min'],
  ])('%d ms is %s', (ms, text) => {
    expect(formatDuration(ms)).toBe(text)
  })

  it.each([
    [-5, 'just now'],
    [5 * 60, '5 min ago'],
    [47 * 3600, '47 h ago'],
    [72 * 3600, '3 days ago'],
  ])('%d s before now is %s', (seconds, text) => {
    const nowMs = Date.UTC(2026, 0, 15)
    expect(formatAge(new Date(nowMs - seconds * 1000), nowMs)).toBe(text)
  })
})

describe('formatTable', () => {
  it('lines up columns and leaves nothing behind the last', () => {
    const lines = formatTable(
      [{ title: 'NAME' }, { title: 'N', right: true }, { title: 'TAGS' }],
      [
        ['memory', '1', ''],
        ['a', '1,000', 'x y'],
      ],
    )
    expect(lines).toEqual(['NAME        N  TAGS', 'memory      1', 'a       1,000  x y'])
  })

  it('is its titles where there are no rows', () => {
    expect(formatTable([{ title: 'ID' }, { title: 'LAYER' }], [])).toEqual(['ID  LAYER'])
  })
})

describe('oneLine', () => {
  it('shows control characters and does not act them out', () => {
    const shown = oneLine('a\nb\u001b[31m\u202ec\u2028\u0085')
    expect(shown).not.toMatch(/[\p{Cc}\p{Cf}\u2028]/u)
    expect(shown).toContain('a\\nb\\u001b[31m')
  })

  it('leaves other text alone', () => {
    expect(oneLine('größer – 日本')).toBe('größer – 日本')
  })
})

describe('formatLatency', () => {
  it.each([
    [0.001, '1 µs'],
    [0.0874, '87.4 µs'],
    [1.41, '1.41 ms'],
    [250, '250 ms'],
    [2300, '2.3 s'],
  ])('%d ms is %s', (ms, text) => {
    expect(formatLatency(ms)).toBe(text)
  })
})

describe('formatTiers', () => {
  it('names the tiers that served', () => {
    expect(formatTiers({ disk: 12.3 * MIB, l2: 0, origin: 512 })).toBe('from disk 12.3 MiB, origin 512 B')
    expect(formatTiers({ disk: 0, l2: 1024, origin: 0 })).toBe('from L2 1 KiB')
    expect(formatTiers({ disk: 0, l2: 0, origin: 0 })).toBe('nothing fetched')
  })
})
