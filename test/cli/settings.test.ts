import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { UsageError } from '../../src/cli/exit.ts'
import { readSettings } from '../../src/cli/settings.ts'

let folder: string

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'thaw-settings-'))
})

afterEach(() => {
  rmSync(folder, { recursive: true })
})

function write(name: string, config: unknown): string {
  const path = join(folder, name)
  writeFileSync(path, typeof config === 'string' ? config : JSON.stringify(config))
  return path
}

const read = (flags: Parameters<typeof readSettings>[0], environment: Record<string, string> = {}) =>
  readSettings(flags, { environment, folder })

describe('readSettings', () => {
  it('takes each setting from the first that names it: flags, environment, config', () => {
    write('thaw.json', { store: 's3://config/x', keyring: 'config.keys' })
    expect(read({})).toEqual({ store: 's3://config/x', keyring: join(folder, 'config.keys') })
    expect(read({}, { THAW_STORE: 's3://environment/x' })).toEqual({ store: 's3://environment/x', keyring: join(folder, 'config.keys') })
    expect(read({ store: 's3://flag/x' }, { THAW_STORE: 's3://environment/x', THAW_KEYRING: '/k' })).toEqual({
      store: 's3://flag/x',
      keyring: '/k',
    })
  })

  it('takes an empty environment variable for none', () => {
    expect(read({}, { THAW_STORE: '', THAW_KEYRING: '', THAW_CONFIG: '' })).toEqual({ store: undefined, keyring: undefined })
  })

  it('makes a path a URL, relative to where it stands', () => {
    mkdirSync(join(folder, 'etc'))
    const config = write('etc/other.json', { store: '../a b', keyring: 'k' })
    expect(read({ config: 'etc/other.json' })).toEqual({ store: pathToFileURL(join(folder, 'a b')).href, keyring: join(folder, 'etc/k') })
    expect(read({}, { THAW_CONFIG: config }).keyring).toBe(join(folder, 'etc/k'))
    expect(read({ store: './s', config }).store).toBe(pathToFileURL(join(folder, 's')).href)
  })

  it('reads no config where nothing of it is wanted', () => {
    write('thaw.json', 'not JSON')
    expect(read({ store: 's3://b/p', keyring: '/k' })).toEqual({ store: 's3://b/p', keyring: '/k' })
    expect(read({ store: 's3://b/p', keyring: false })).toEqual({ store: 's3://b/p', keyring: undefined })
  })

  it('leaves out the keyring of a config if told to use none', () => {
    write('thaw.json', { store: 's3://b/p', keyring: 'k' })
    expect(read({ keyring: false }, { THAW_KEYRING: '/k' })).toEqual({ store: 's3://b/p', keyring: undefined })
  })

  it.each([['[]'], ['null'], ['{'], ['{"store":1}'], ['{"store":""}'], ['{"stores":"x"}'], ['{"store":"s3://b/p","__proto__":"x"}']])(
    'refuses the config %s',
    text => {
      write('thaw.json', text)
      expect(() => read({})).toThrow(UsageError)
    },
  )

  it('refuses a named config that is not there, or is a folder', () => {
    expect(() => read({ config: 'none.json' })).toThrow(UsageError)
    expect(() => read({ config: '.' })).toThrow(UsageError)
  })

  it('refuses an empty store', () => {
    expect(() => read({ store: '' })).toThrow(UsageError)
  })
})
