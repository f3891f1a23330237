/**
 * Which caches are read through, and where figures are shown: each setting from its flag, then its environment variable, then the config file.
 *
 * The three are called alike: `--cache-dir`, THAW_CACHE_DIR, `cacheDir`. `none` or 0 leaves out what another source sets. An error names the source and what is
 * allowed, and never repeats what may hold a password.
 */
import { dirname, resolve } from 'node:path'
import type { RedisMode } from '../index.ts'
import { ADDRESS_FORMS, parseAddress } from './address.ts'
import { type FoundConfig, findConfig } from './config.ts'
import { UsageError } from './exit.ts'
import type { CacheFlags, GlobalFlags } from './flags.ts'
import { namedConfig, type Surroundings, surroundings } from './settings.ts'
import { parseSize, SIZE_FORMS } from './size.ts'

export interface CacheSettings {
  /** Of commands that serve pages; bulk work leaves it alone. Undefined: the library's default. */
  readonly memoryBytes: number | undefined
  /** Without a size the folder's own bound counts. */
  readonly disk: { readonly path: string; readonly sizeBytes: number | undefined } | undefined
  readonly l2: L2Settings | undefined
  readonly metrics: { readonly host: string; readonly port: number } | undefined
  /** Where running processes are found; undefined: the default of this user (state-folder.ts). */
  readonly stateDir: string | undefined
}

export interface L2Settings {
  readonly mode: RedisMode
  readonly urls: readonly string[]
  readonly erasure: boolean
  readonly password: string | undefined
  readonly passwordFile: string | undefined
  readonly caFile: string | undefined
}

/** Written out: the library's own list would bring the library with it. */
export const L2_MODES: readonly RedisMode[] = ['standalone', 'cluster', 'shards']
const YES = ['1', 'true', 'yes']
const NO = ['0', 'false', 'no']

/** What a source says of a setting. */
interface Given {
  readonly value: string | number | boolean | readonly string[]
  /** Names the source in errors. */
  readonly from: string
  readonly kind: 'flag' | 'variable' | 'config'
  /** What a path is relative to. */
  readonly folder: string
}

type Lookup = (name: keyof CacheFlags) => Given | undefined

/** @throws UsageError naming the flag, the variable, or the config and its member */
export function readCacheSettings(flags: GlobalFlags, around: Surroundings = surroundings()): CacheSettings {
  const config = findConfig(namedConfig(flags, around), around.folder)
  const find: Lookup = name => findGiven(name, flags, around, config)
  return {
    memoryBytes: sizeOf(find('cacheMemory')),
    disk: diskOf(find),
    l2: l2Of(find, around.environment),
    metrics: addressOf(find('metrics')),
    stateDir: pathOf(find('stateDir')),
  }
}

function findGiven(name: keyof CacheFlags, flags: CacheFlags, around: Surroundings, config: FoundConfig | undefined): Given | undefined {
  const flag = flags[name]
  const { folder } = around
  if (flag !== undefined) return { value: flag, from: `--${spelt(name, '-')}`, kind: 'flag', folder }
  const variable = variableOf(name)
  const text = around.environment[variable]
  if (text !== undefined && text !== '') return { value: text, from: variable, kind: 'variable', folder }
  const member = config?.members[name]
  if (member === undefined || config === undefined) return undefined
  return { value: member, from: `config ${config.path}: ${name}`, kind: 'config', folder: dirname(config.path) }
}

function variableOf(name: string): string {
  return `THAW_${spelt(name, '_').toUpperCase()}`
}

function spelt(name: string, between: string): string {
  return name.replaceAll(/[A-Z]/g, letter => `${between}${letter.toLowerCase()}`)
}

function diskOf(find: Lookup): CacheSettings['disk'] {
  const path = pathOf(find('cacheDir'))
  const sizeBytes = sizeOf(find('cacheDisk'))
  return path === undefined || sizeBytes === 0 ? undefined : { path, sizeBytes }
}

function l2Of(find: Lookup, environment: Surroundings['environment']): L2Settings | undefined {
  const given = find('l2')
  const urls = urlsOf(given)
  if (given === undefined || urls.length === 0) return undefined
  const mode = modeOf(find('l2Mode'))
  if (mode === undefined && urls.length > 1) {
    throw new UsageError(`${given.from} names ${urls.length} nodes: say what they are, --l2-mode cluster or shards (standalone has one)`)
  }
  return {
    mode: mode ?? 'standalone',
    urls,
    erasure: truthOf(find('l2Erasure')),
    ...passwordOf(find('l2PasswordFile'), environment.THAW_L2_PASSWORD || undefined),
    caFile: pathOf(find('l2Ca')),
  }
}

/** Of the file and the variable that holds the password itself, the one from the nearer source. */
function passwordOf(file: Given | undefined, password: string | undefined): Pick<L2Settings, 'password' | 'passwordFile'> {
  if (password === undefined || file?.kind === 'flag') return { password: undefined, passwordFile: pathOf(file) }
  if (file?.kind === 'variable') throw new UsageError(`THAW_L2_PASSWORD and ${file.from} are both set: keep one`)
  return { password, passwordFile: undefined }
}

function urlsOf(given: Given | undefined): readonly string[] {
  if (given === undefined) return []
  const { value, from, kind } = given
  const urls = typeof value === 'string' ? (kind === 'variable' ? value.split(/[\s,]+/).filter(url => url !== '') : [value]) : value
  if (!Array.isArray(urls)) return []
  if (urls.every(isNone)) return []
  if (urls.every(url => /^rediss?:\/\/./.test(url))) return urls
  throw new UsageError(`${from}: an L2 cache is redis://[user:password@]host:port[/db], rediss:// for TLS, or none`)
}

function modeOf(given: Given | undefined): RedisMode | undefined {
  if (given === undefined) return undefined
  const mode = L2_MODES.find(known => known === given.value)
  return mode ?? refuse(given, `one of ${L2_MODES.join(', ')}`)
}

function truthOf(given: Given | undefined): boolean {
  if (given === undefined) return false
  const text = String(given.value)
  if (YES.includes(text)) return true
  return NO.includes(text) ? false : refuse(given, `${YES.join(', ')} or ${NO.join(', ')}`)
}

function sizeOf(given: Given | undefined): number | undefined {
  if (given === undefined) return undefined
  if (isNone(given.value)) return 0
  return parseSize(String(given.value)) ?? refuse(given, `${SIZE_FORMS}, or none`)
}

function pathOf(given: Given | undefined): string | undefined {
  if (given === undefined || isNone(given.value)) return undefined
  return given.value === '' ? refuse(given, 'a path, or none') : resolve(given.folder, String(given.value))
}

function addressOf(given: Given | undefined): CacheSettings['metrics'] {
  if (given === undefined || isNone(given.value)) return undefined
  return parseAddress(String(given.value)) ?? refuse(given, `${ADDRESS_FORMS}, or none`)
}

function isNone(value: Given['value']): boolean {
  return value === 'none' || value === '0'
}

function refuse({ from, value }: Given, allowed: string): never {
  throw new UsageError(`${from}: ${JSON.stringify(value)} is not ${allowed}`)
}
