/** What goes wrong: one line on standard error, nothing on standard output, and the exit code that scripts rely on. */
import { chmod, mkdir, writeFile } from 'node:fs/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { errorLine, Workplace } from './program.ts'

const FAILED = 1
const USAGE = 2

let place: Workplace

beforeAll(async () => {
  place = await Workplace.create()
  await place.mustRun('init')
  await place.mustRun('key', 'create', '--tenant', 'acme')
  await place.mustRun('key', 'export', 'worker.keys', '--role', 'worker')
  await place.mustRun('key', 'export', 'shared.keys', '--role', 'worker')
  await chmod(place.path('shared.keys'), 0o644)
  await mkdir(place.path('folder'))
  await writeFile(place.path('x.img'), 'x')
  await writeFile(place.path('bad.json'), '{')
})

afterAll(() => place[Symbol.asyncDispose]())

const PUSH = ['push', '--layer', 'os']

/** Code, exit code, arguments. */
const CASES: readonly (readonly [string, number, readonly string[]])[] = [
  ['USAGE', USAGE, ['push', 'x=x.img']],
  ['USAGE', USAGE, ['push', '--layer', 'kernel', 'x=x.img']],
  ['USAGE', USAGE, ['pusj']],
  ['USAGE', USAGE, ['ls', '--nonsense']],
  ['USAGE', USAGE, ['inspect']],
  ['USAGE', USAGE, ['ls', 'surplus']],
  ['USAGE', USAGE, ['ls', '--store']],
  ['USAGE', USAGE, ['ls', '--store', 'ftp://x']],
  ['USAGE', USAGE, ['ls', '--config', 'bad.json']],
  ['USAGE', USAGE, ['ls', '--config', 'missing.json']],
  ['USAGE', USAGE, PUSH],
  ['USAGE', USAGE, [...PUSH, 'x']],
  ['USAGE', USAGE, [...PUSH, 'x=x.img', 'x=x.img']],
  ['USAGE', USAGE, [...PUSH, 'x=-', 'y=-']],
  ['USAGE', USAGE, [...PUSH, 'x:tape=x.img']],
  ['USAGE', USAGE, [...PUSH, '../x=x.img']],
  ['USAGE', USAGE, [...PUSH, 'a\nb=x.img']],
  ['USAGE', USAGE, [...PUSH, 'x=folder']],
  ['USAGE', USAGE, [...PUSH, '--label', 'novalue', 'x=x.img']],
  ['USAGE', USAGE, [...PUSH, '--label', 'a=1', '--label', 'a=2', 'x=x.img']],
  ['USAGE', USAGE, [...PUSH, '--label', 'a=\u0007', 'x=x.img']],
  ['USAGE', USAGE, [...PUSH, '--tenant', '../acme', 'x=x.img']],
  ['USAGE', USAGE, [...PUSH, '--create-tenant', 'x=x.img']],
  ['USAGE', USAGE, [...PUSH, '--tag', '0123456789', 'x=x.img']],
  ['USAGE', USAGE, [...PUSH, '--tag', 'acme//t', 'x=x.img']],
  ['USAGE', USAGE, [...PUSH, '--inherit', 'x=x.img']],
  ['USAGE', USAGE, [...PUSH, '--no-keyring', 'x=x.img']],
  ['USAGE', USAGE, ['inspect', 'a\nb']],
  ['USAGE', USAGE, ['inspect', '..']],
  ['USAGE', USAGE, ['tag', '0123456789', 't', '--expect', 'some-tag']],
  ['USAGE', USAGE, ['key', 'export', 'new.keys', '--role', 'king']],
  ['USAGE', USAGE, ['completions', 'ksh']],
  ['NOT_FOUND', FAILED, [...PUSH, '--parent', 'missing:1', 'x=x.img']],
  ['NOT_FOUND', FAILED, [...PUSH, '--parent', '0123456789', 'x=x.img']],
  ['NOT_FOUND', FAILED, [...PUSH, 'x=missing.img']],
  ['NOT_FOUND', FAILED, [...PUSH, 'x=new\nline']],
  ['NOT_FOUND', FAILED, ['inspect', 'missing:1']],
  ['NOT_FOUND', FAILED, ['pull', 'f'.repeat(64), 'out']],
  ['NOT_FOUND', FAILED, ['ls', '--store', './nowhere']],
  ['NOT_FOUND', FAILED, ['ls', '--keyring', 'missing.keys']],
  ['WRONG_KEY', FAILED, [...PUSH, '--keyring', 'worker.keys', 'x=x.img']],
  ['WRONG_KEY', FAILED, ['push', '--layer', 'function', '--tenant', 'nobody', 'x=x.img']],
  ['WRONG_KEY', FAILED, ['key', 'create', '--tenant', 'new', '--keyring', 'worker.keys']],
  ['DENIED', FAILED, ['ls', '--keyring', 'shared.keys']],
  ['CONFLICT', FAILED, ['key', 'export', 'worker.keys', '--role', 'worker']],
]

describe('an error', () => {
  it.each(CASES)('%s, exit code %d: thaw %j', async (code, exitCode, args) => {
    const ended = await place.run('--json', ...args)
    expect(JSON.parse(errorLine(ended))).toEqual({
      error: { code, retryable: false, object: code === 'USAGE' ? null : expect.any(String), message: expect.any(String) },
    })
    expect(ended).toMatchObject({ code: exitCode, stdout: '' })
  })

  it.each([
    ['a file name with a newline', [...PUSH, 'x=new\nline']],
    ['a mistyped command', ['pusj']],
  ])('is one line for people: %s', async (_, args) => {
    expect(errorLine(await place.run(...args))).toMatch(/^thaw: /)
  })

  it('has its causes with --verbose', async () => {
    const { stderr } = await place.run(...PUSH, 'x=missing.img', '--verbose')
    expect(stderr.split('\n')[1]).toMatch(/^ {2}caused by .*ENOENT/)
  })
})

describe('without settings', () => {
  it.each([
    ['--l2x=redis://u:7391/x7391@cache'],
    ['redis://u:7391/x7391@cache'],
    ['cache', 'ls', '--l2', 'redis://u:7391/x7391@cache'],
    ['cache', 'ls', '--l2', 'redis://:x@7391/x7391@cache'],
    ['ls', '--store', 's3://key:x7391@bucket/x'],
    ['ls', '--store', 's3://bucket?x7391'],
  ])('shows no part of a password: %s %s %s %s', async (...args) => {
    for (const more of ['--json', '--verbose']) {
      const { code, stdout, stderr } = await place.run(...args.filter(Boolean), more)
      expect({ code, stdout }).toEqual({ code: USAGE, stdout: '' })
      expect(stderr).not.toContain('7391')
    }
  })

  it('says how to make a store', async () => {
    await using empty = await Workplace.create()
    const ended = await empty.run('ls')
    expect(ended.code).toBe(USAGE)
    expect(errorLine(ended)).toContain('thaw init')
  })
})

describe('help', () => {
  it('is the answer to --help, of the program and of commands', async () => {
    for (const args of [['--help'], ['push', '--help'], ['key', 'export', '--help']]) {
      const { code, stdout, stderr } = await place.run(...args)
      expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
      expect(stdout).toContain('$ thaw')
    }
  })

  it('is wrong usage where a command is missing', async () => {
    for (const args of [[], ['key']]) expect(await place.run(...args)).toMatchObject({ code: USAGE, stdout: '' })
  })

  it('knows its version', async () => {
    expect(await place.mustRun('--version')).toMatch(/^\d+\.\d+\.\d+/)
  })
})

describe('completions', () => {
  it.each(['bash', 'zsh', 'fish', 'powershell'])('are a script for %s', async shell => {
    expect(await place.mustRun('completions', shell)).toContain('thaw complete')
  })

  it('complete commands, options and choices', async () => {
    const complete = async (...words: string[]) =>
      (await place.mustRun('complete', '--', ...words)).split('\n').map(line => line.split('\t')[0])
    expect(await complete('ver')).toContain('verify')
    expect(await complete('push', '--par')).toContain('--parent')
    expect(await complete('push', '--layer', '')).toEqual(expect.arrayContaining(['os', 'runtime', 'function']))
    expect(await complete('key', '')).toEqual(expect.arrayContaining(['ls', 'create', 'export']))
  })
})
