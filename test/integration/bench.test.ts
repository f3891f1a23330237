/** The benchmarks and the demo, at smoke sizes: that they still work and say what they are for. Speed is theirs to judge, not a test's. */
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { sameBytes } from '../../bench/demo/same-bytes.ts'
import type { Report } from '../../bench/harness.ts'
import { measure } from '../../bench/peers/command.ts'
import { writeDenseImage } from '../../bench/peers/dense.ts'
import { dirtyPages } from '../../bench/peers/dirty-pages.ts'
import { sealLimit } from '../../bench/peers/seal-limit.ts'

let dir: string

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'thaw-bench-test-'))
})

afterEach(async () => {
  await rm(dir, { recursive: true, force: true })
})

interface Ended {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Runs a program of `bench` whose temporary files lie in `dir`; `onOutput` is called for each piece it prints. */
async function run(program: string, args: readonly string[], onOutput: (kill: () => void) => void = () => {}): Promise<Ended> {
  const path = join(import.meta.dirname, '../../bench', `${program}.ts`)
  const child = spawn(process.execPath, [path, ...args], { env: { ...process.env, TMPDIR: dir }, stdio: ['ignore', 'pipe', 'pipe'] })
  child.stdout.on('data', () => onOutput(() => child.kill('SIGINT')))
  const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')])
  return { code: child.exitCode, stdout, stderr }
}

/** The report of a smoke run that succeeded. */
async function smoke(program: string, ...args: string[]): Promise<Report> {
  const { code, stdout, stderr } = await run(program, ['--smoke', '--json', ...args])
  expect({ code, stderr: code === 0 ? '' : stderr }).toEqual({ code: 0, stderr: '' })
  return JSON.parse(stdout)
}

/** Names of sections, with the number of their goals that were measured. */
function measured({ sections }: Report): Record<string, number> {
  return Object.fromEntries(sections.map(({ name, goals }) => [name, goals.filter(({ value }) => Number.isFinite(value)).length]))
}

describe('bench', () => {
  it.each([
    ['nbd', { 'nbd-1': 2, 'nbd-16': 1, 'nbd-copy': 1 }],
    ['fuse', { 'fuse-faults': 2, 'fuse-sequential': 1 }],
    ['uffd', { uffd: 2, 'uffd-paused': 0, 'uffd-pushing': 1 }],
    ['guest', { guest: 2 }],
  ])('frontends measures %s', async (section, goals) => {
    expect(measured(await smoke('frontends', '--only', section))).toEqual(goals)
  })

  it('manifest measures its size and how fast it opens', async () => {
    const report = await smoke('manifest')
    expect(measured(report)).toEqual({ manifest: 4 })
    expect(report.sections[0]!.timings).toHaveLength(2)
  })

  it('peers measures whole commands, with whichever peers are here', async () => {
    const { sections } = await smoke('peers', '--only', 'fn/pull')
    expect(sections.map(({ name }) => name)).toEqual(['fn/pull'])
    expect(sections[0]!.timings[0]).toMatchObject({ name: 'thaw', seconds: [expect.any(Number)] })
    expect(sections[0]!.timings[0]!.peakBytes).toBeGreaterThan(2 ** 24)
  })

  it('s3 measures thaw against the bare client', async () => {
    const report = await smoke('s3')
    expect(measured(report)).toEqual({ push: 1, pull: 1 })
    expect(report.sections[0]!.timings.map(({ name }) => name)).toHaveLength(5)
  })

  it('read measures every tier, with real servers', async () => {
    const report = await smoke('read')
    expect(measured(report)).toEqual({
      memory: 4,
      miss: 1,
      'disk/dense': 1,
      'disk/random': 1,
      'l2/dense': 1,
      'l2/random': 2,
      pull: 2,
      herd: 1,
      stall: 2,
    })
  })

  it('prints tables, and leaves nothing behind', async () => {
    const { stdout } = await run('manifest', ['--smoke'])
    expect(stdout).toContain('| manifest / image ')
    expect(await readdir(dir)).toEqual([])
  })

  it('refuses a number of runs that is none', async () => {
    expect(await run('manifest', ['--smoke', '--runs', '0'])).toMatchObject({ code: 1, stdout: '' })
  })
})

describe('the demo', () => {
  it('does the main job on the memory of a process', async () => {
    const { code, stdout } = await run('demo', ['--process'])
    expect({ code, stdout }).toMatchObject({ code: 0, stdout: expect.stringContaining('every byte is as it was pushed') })
    for (const tag of ['linux:6', 'python:3', 'table:1']) expect(stdout).toContain(tag)
    expect(await readdir(dir)).toEqual([])
  })

  it('resumes the guest that it pulled, and asks it', async () => {
    const { code, stdout } = await run('demo', [])
    const answer = createHash('sha256').update('7').digest('hex')
    expect({ code, stdout }).toMatchObject({ code: 0, stdout: expect.stringContaining(`answered ${answer}`) })
  })

  it('ends cleanly when it is interrupted', async () => {
    const ended = await run('demo', ['--process'], kill => kill())
    expect(ended).toMatchObject({ code: 130, stderr: '' })
    expect(await readdir(dir)).toEqual([])
  })
})

describe('what the benchmarks stand on', () => {
  it('a dense image is the same for a seed, has no zero page and is half compressible', async () => {
    const [one, two, other] = ['one', 'two', 'other'].map(name => join(dir, name))
    await writeDenseImage(one!, 2 ** 21)
    await writeDenseImage(two!, 2 ** 21)
    await writeDenseImage(other!, 2 ** 21, 'another')
    expect(await sameBytes(one!, two!)).toBe(true)
    expect(await sameBytes(one!, other!)).toBe(false)
    expect((await stat(one!)).size).toBe(2 ** 21)
    const { bytes, compressedBytes } = await dirtyPages(other!, one!)
    expect(bytes).toBe(2 ** 21)
    expect(bytes / compressedBytes).toBeGreaterThan(1.4)
    expect(bytes / compressedBytes).toBeLessThan(1.7)
  })

  it('the sealing limit seals an image, and refuses one that has nothing to seal', async () => {
    const [dense, zero] = [join(dir, 'dense'), join(dir, 'zero')] as const
    await writeDenseImage(dense, 2 ** 21)
    await writeFile(zero, Buffer.alloc(2 ** 21))
    expect((await sealLimit(dense)).seconds).toBeGreaterThan(0)
    await expect(sealLimit(zero)).rejects.toThrow()
  })

  it('a command that fails is told from one that ran', async () => {
    const { signal } = new AbortController()
    const ran = await measure({ argv: ['sh', '-c', 'echo $GREETING; sleep 0.2'], env: { GREETING: 'hello' } }, signal)
    expect(ran.stdout).toBe('hello\n')
    expect(ran.seconds).toBeGreaterThanOrEqual(0.2)
    await expect(measure({ argv: ['false'] }, signal)).rejects.toThrow()
    await expect(measure({ argv: [join(dir, 'nothing')] }, signal)).rejects.toThrow()
  })

  it('a command is killed when its benchmark is interrupted', async () => {
    const controller = new AbortController()
    const reason = new Error('enough')
    const running = measure({ argv: ['sleep', '600'] }, controller.signal)
    setTimeout(() => controller.abort(reason), 300)
    await expect(running).rejects.toBe(reason)
  })

  it('dirty pages are those that differ and are not zero', async () => {
    const [before, after] = [join(dir, 'before'), join(dir, 'after')] as const
    await writeDenseImage(before, 2 ** 20)
    const bytes = await readFile(before)
    bytes[5000] = bytes[5000]! ^ 1
    bytes.fill(0, 8192, 12288)
    await writeFile(after, bytes)
    expect((await dirtyPages(before, after)).bytes).toBe(4096)
    expect((await dirtyPages(after, before)).bytes).toBe(8192)
  })
})
