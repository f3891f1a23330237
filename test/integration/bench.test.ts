/** The benchmarks and the demo still work and say what they are for: here what takes seconds, in test/long the others. Speed is theirs to judge, not a test's. */
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { sameBytes } from '../../bench/demo/same-bytes.ts'
import { measure } from '../../bench/peers/command.ts'
import { writeDenseImage } from '../../bench/peers/dense.ts'
import { dirtyPages } from '../../bench/peers/dirty-pages.ts'
import { sealLimit } from '../../bench/peers/seal-limit.ts'
import { measured, runBench, smoke } from '../bench-program.ts'

let dir: string

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'thaw-bench-test-'))
})

afterEach(async () => {
  await rm(dir, { recursive: true, force: true })
})

describe('bench', () => {
  it('manifest measures its size and how fast it opens', async () => {
    const report = await smoke(dir, 'manifest')
    expect(measured(report)).toEqual({ manifest: 4 })
    expect(report.sections[0]!.timings).toHaveLength(2)
  })

  it('prints tables, and leaves nothing behind', async () => {
    const { stdout } = await runBench(dir, 'manifest', ['--smoke'])
    expect(stdout).toContain('| manifest / image ')
    expect(await readdir(dir)).toEqual([])
  })

  it('refuses a number of runs that is none', async () => {
    expect(await runBench(dir, 'manifest', ['--smoke', '--runs', '0'])).toMatchObject({ code: 1, stdout: '' })
  })
})

describe('the demo', () => {
  it('does the main job on the memory of a process', async () => {
    const { code, stdout } = await runBench(dir, 'demo', ['--process'])
    expect({ code, stdout }).toMatchObject({ code: 0, stdout: expect.stringContaining('every byte is as it was pushed') })
    for (const tag of ['linux:6', 'python:3', 'table:1']) expect(stdout).toContain(tag)
    expect(await readdir(dir)).toEqual([])
  })

  it('ends cleanly when it is interrupted', async () => {
    const ended = await runBench(dir, 'demo', ['--process'], kill => kill())
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
