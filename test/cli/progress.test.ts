import { describe, expect, it } from 'vitest'
import { formatProgress } from '../../src/cli/progress.ts'

const MIB = 2 ** 20

describe('formatProgress', () => {
  it('says how far, how fast and how long', () => {
    const line = formatProgress({ doneBytes: 100 * MIB, totalBytes: 400 * MIB, text: 'stored 5 MiB' }, { elapsedMs: 500, etaSeconds: 1.2 })
    expect(line).toBe('█████░░░░░░░░░░░░░░░   25 %  100 MiB of 400 MiB  200 MiB/s  2.0 s left  stored 5 MiB')
  })

  it('has no percentage for a stream', () => {
    const line = formatProgress({ doneBytes: 100 * MIB, totalBytes: undefined, text: '' }, { elapsedMs: 1000, etaSeconds: Number.NaN })
    expect(line).toBe('100 MiB  100 MiB/s')
  })

  it.each([Number.NaN, Number.POSITIVE_INFINITY])('names no time while it is %d', etaSeconds => {
    expect(formatProgress({ doneBytes: 1, totalBytes: 2, text: '' }, { elapsedMs: 1, etaSeconds })).not.toContain('left')
  })

  it('is complete where there is nothing to do, and at no time over', () => {
    const at = { elapsedMs: 0, etaSeconds: 0 }
    expect(formatProgress({ doneBytes: 0, totalBytes: 0, text: '' }, at)).toContain('100 %')
    expect(formatProgress({ doneBytes: 9, totalBytes: 8, text: '' }, at)).toContain('100 %')
  })
})
