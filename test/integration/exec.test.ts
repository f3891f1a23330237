/** `thaw exec`, seen from the program that it becomes (madvise.c) and from whoever started it. From the sources and from the bundles. */
import { execFileSync, type StdioOptions, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync } from 'node:fs'
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { execVmm } from '../../src/exec.ts'
import { codeOfAsync } from '../code-of.ts'
import { type BuiltProgram, buildProgram } from './built-program.ts'

const SOURCES = join(import.meta.dirname, '../../src/cli.ts')
const EXIT_OF_PROGRAM = 7

let dir: string
let program: string
let built: BuiltProgram
let withoutKoffi: BuiltProgram

interface Ran {
  readonly pid: number | undefined
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

interface Report {
  readonly pid: number
  readonly flags: string
  readonly fds: readonly number[]
  readonly argv: readonly string[]
}

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'thaw-exec-'))
  program = join(dir, 'program')
  execFileSync('cc', ['-O2', '-Wall', '-Wextra', '-Werror', '-o', program, join(import.meta.dirname, 'madvise.c')])
  built = await buildProgram({ cli: 'src/cli.ts' }, ['koffi', 'commander'])
  withoutKoffi = await buildProgram({ cli: 'src/cli.ts' }, ['commander'])
})

afterAll(async () => {
  await built[Symbol.asyncDispose]()
  await withoutKoffi[Symbol.asyncDispose]()
  await rm(dir, { recursive: true, force: true })
})

/** Runs a command to its end. @param more descriptors from 3 on */
async function run(
  command: readonly string[],
  more: readonly (number | 'pipe')[] = [],
  env: NodeJS.ProcessEnv = process.env,
): Promise<Ran> {
  const stdio: StdioOptions = ['ignore', 'pipe', 'pipe', ...more]
  const child = spawn(command[0]!, command.slice(1), { cwd: dir, env, stdio })
  const [stdout, stderr] = await Promise.all([text(child.stdio[1] as Readable), text(child.stdio[2] as Readable), once(child, 'close')])
  return { pid: child.pid, code: child.exitCode, stdout, stderr }
}

function thawExec(...args: string[]): Promise<Ran> {
  return run([process.execPath, SOURCES, 'exec', ...args])
}

function reportOf({ code, stdout, stderr }: Ran): Report {
  expect({ code, stderr }).toEqual({ code: EXIT_OF_PROGRAM, stderr: '' })
  return JSON.parse(stdout)
}

const hex = (words: readonly string[]): string[] => words.map(word => Buffer.from(word).toString('hex'))

describe('the program that it becomes', () => {
  it('cannot ask for huge pages and is not told so; other advice works, and errors are errors', async () => {
    const without = reportOf(await run([program]))
    expect(without.flags).toMatch(/ hg /)
    const report = reportOf(await thawExec(program))
    expect(report).toMatchObject({ huge: 0, dontfork: 0, wrong: 22 })
    expect(report.flags).not.toMatch(/ hg /)
    expect(report.flags).toMatch(/ dc /)
  })

  it('is the same process, and its exit code is the one', async () => {
    const ran = await thawExec('--', program)
    expect(reportOf(ran).pid).toBe(ran.pid)
  })

  it('gets its arguments as they are, options too', async () => {
    const args = ['--json', '', 'a b', '--', '-h', 'ü']
    for (const first of [[program], ['--', program]])
      expect(reportOf(await thawExec(...first, ...args)).argv).toEqual(hex([program, ...args]))
  })

  it('gets arguments that are not text', async () => {
    const script = `exec "$0" "$1" exec "$2" "$(printf 'a\\377b')"`
    const ran = await run(['/bin/sh', '-c', script, process.execPath, SOURCES, program])
    expect(reportOf(ran).argv).toEqual([...hex([program]), '61ff62'])
  })

  it('finds signals and standard streams as a shell hands them over', async () => {
    for (const options of [[], ['--quiet', '--']]) {
      expect(reportOf(await thawExec(...options, program))).toMatchObject({ defaults: 1, unblocked: 1, blocking: 1 })
    }
  })

  it('has the descriptors with which thaw was started, and no other', async () => {
    const file = openSync(program, 'r')
    try {
      const direct = reportOf(await run([program], [file, 'pipe']))
      const report = reportOf(await run([process.execPath, SOURCES, 'exec', program], [file, 'pipe']))
      expect(report.fds).toEqual(expect.arrayContaining([0, 1, 2, 3, 4]))
      expect(report.fds).toEqual(direct.fds)
    } finally {
      closeSync(file)
    }
  })

  it('has the environment and the working directory with which thaw was started', async () => {
    const env = { PATH: process.env.PATH, HOME: dir, MARK: 'x=y' }
    const { stdout } = await run([process.execPath, SOURCES, 'exec', 'sh', '-c', 'env; pwd'], [], env)
    const direct = await run(['sh', '-c', 'env; pwd'], [], env)
    expect(stdout).toBe(direct.stdout)
  })

  it('may get privileges if thaw may set a filter without giving them up, and not if it may not', async () => {
    const command = [process.execPath, SOURCES, 'exec', 'grep', 'NoNewPrivs', '/proc/self/status']
    expect((await run(command)).stdout).toMatch(/\t0$/m)
    expect((await run(['setpriv', '--bounding-set=-sys_admin', ...command])).stdout).toMatch(/\t1$/m)
  })

  it('is the same from the bundles', async () => {
    const ran = await run([process.execPath, join(built.dist, 'cli.js'), 'exec', '--', program, '-x'])
    expect(reportOf(ran)).toMatchObject({ pid: ran.pid, huge: 0, argv: hex([program, '-x']) })
    expect(reportOf(ran).flags).not.toMatch(/ hg /)
  })
})

describe('a program that cannot be started', () => {
  it('has the exit code that users of env and nice expect', async () => {
    const text = join(dir, 'text')
    await writeFile(text, 'text')
    await chmod(text, 0o644)
    expect(await thawExec('no-such-program')).toMatchObject({ code: 127, stdout: '' })
    expect(await thawExec('--', join(dir, 'missing'))).toMatchObject({ code: 127, stdout: '' })
    expect(await thawExec(text)).toMatchObject({ code: 126, stdout: '' })
    expect(await thawExec(dir)).toMatchObject({ code: 126, stdout: '' })
  })

  it('is told from a thaw that cannot start any', async () => {
    const ran = await run([process.execPath, join(withoutKoffi.dist, 'cli.js'), 'exec', '--json', '--', program])
    expect(ran).toMatchObject({ code: 125, stdout: '' })
    expect(JSON.parse(ran.stderr).error).toMatchObject({ code: 'UNSUPPORTED' })
  })

  it('is an error in the form that was asked for', async () => {
    const ran = await thawExec('--json', '--', 'no-such-program')
    expect(ran).toMatchObject({ code: 127, stdout: '' })
    expect(JSON.parse(ran.stderr).error).toMatchObject({ code: 'NOT_FOUND', object: 'no-such-program', retryable: false })
  })

  it.each([[], ['--'], ['--nonsense', 'true'], ['--json', 'true'], ['--json', 'true', '--', 'x']].map(args => [args]))(
    'is wrong usage: %j',
    async args => {
      expect(await thawExec(...args)).toMatchObject({ code: 2, stdout: '' })
    },
  )
})

describe('the library', () => {
  it('refuses what cannot be an argument or a descriptor before anything is changed', async () => {
    expect(await codeOfAsync(() => execVmm('a\0b'))).toBe('TypeError')
    expect(await codeOfAsync(() => execVmm('true', [], { passFds: [9_999_999] }))).toBe('RangeError')
  })
})
