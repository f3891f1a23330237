/** The benchmarks and the demo at smoke sizes, with real servers and guests: that none of them rots. */
import { createHash } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { measured, runBench, smoke } from '../bench-program.ts'

let dir: string

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'thaw-bench-test-'))
})

afterEach(async () => {
  await rm(dir, { recursive: true, force: true })
})

describe('bench', () => {
  it.each([
    ['nbd', { 'nbd-1': 2, 'nbd-16': 1, 'nbd-copy': 1 }],
    ['fuse', { 'fuse-faults': 2, 'fuse-sequential': 1 }],
    ['uffd', { uffd: 2, 'uffd-paused': 0, 'uffd-pushing': 1 }],
    ['many', { many: 3 }],
    ['guest', { guest: 2 }],
  ])('frontends measures %s', async (section, goals) => {
    expect(measured(await smoke(dir, 'frontends', '--only', section))).toEqual(goals)
  })

  it('peers measures whole commands, with whichever peers are here', async () => {
    const { sections } = await smoke(dir, 'peers', '--only', 'fn/pull')
    expect(sections.map(({ name }) => name)).toEqual(['fn/pull'])
    expect(sections[0]!.timings[0]).toMatchObject({ name: 'thaw', seconds: [expect.any(Number)] })
    expect(sections[0]!.timings[0]!.peakBytes).toBeGreaterThan(2 ** 24)
  })

  it('s3 measures thaw against the bare client', async () => {
    const report = await smoke(dir, 's3')
    expect(measured(report)).toEqual({ push: 1, pull: 1 })
    expect(report.sections[0]!.timings.map(({ name }) => name)).toHaveLength(5)
  })

  it('read measures every tier, with real servers', async () => {
    const report = await smoke(dir, 'read')
    expect(measured(report)).toEqual({
      memory: 4,
      miss: 2,
      'beside-bulk': 1,
      'beside-reader': 1,
      open: 2,
      'disk/dense': 1,
      'disk/random': 1,
      'l2/dense': 1,
      'l2/random': 2,
      pull: 2,
      herd: 1,
      spawns: 1,
      stall: 2,
    })
  })
})

describe('the demo', () => {
  it('resumes the guest that it pulled, and asks it', async () => {
    const { code, stdout } = await runBench(dir, 'demo', [])
    const answer = createHash('sha256').update('7').digest('hex')
    expect({ code, stdout }).toMatchObject({ code: 0, stdout: expect.stringContaining(`answered ${answer}`) })
  })
})
