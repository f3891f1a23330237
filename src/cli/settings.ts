/**
 * Where the store and the keyring are: from flags, then the environment, then the config file. The first that says something about a setting wins for
 * that setting alone.
 *
 * The config file is the one named by `--config` or THAW_CONFIG, which must be there, else `thaw.json` in the current folder, else
 * `/etc/thaw/thaw.json`. Paths in it are relative to its folder, paths in flags and the environment to the current one.
 */
import { readFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { UsageError } from './exit.ts'
import type { OutputFlags } from './output.ts'

export const CONFIG_NAME = 'thaw.json'
const SYSTEM_CONFIG = '/etc/thaw/thaw.json'
const CONFIG_FIELDS = ['store', 'keyring'] as const
const SCHEME = /^[A-Za-z][A-Za-z0-9+.-]*:/

/** The options that every command takes. */
export interface GlobalFlags extends OutputFlags {
  readonly store?: string
  /** False: `--no-keyring`. */
  readonly keyring?: string | false
  readonly config?: string
}

export interface Settings {
  /** A URL: a path is made one. */
  readonly store: string | undefined
  /** An absolute path. */
  readonly keyring: string | undefined
}

/** Where a run stands: what settings are read from besides the flags. */
export interface Surroundings {
  readonly environment: Readonly<Record<string, string | undefined>>
  readonly folder: string
}

export function surroundings(): Surroundings {
  return { environment: process.env, folder: process.cwd() }
}

/** @throws UsageError if a config file is named that is not there, or if the one that counts is not as it should be */
export function readSettings(flags: GlobalFlags, around: Surroundings = surroundings()): Settings {
  const given = givenSettings(flags, around)
  const wantsKeyring = flags.keyring !== false
  if (given.store !== undefined && (given.keyring !== undefined || !wantsKeyring)) return given
  const config = readFirstConfig(flags, around)
  return { store: given.store ?? config?.store, keyring: wantsKeyring ? (given.keyring ?? config?.keyring) : undefined }
}

/** What flags and environment say, without the config file. */
export function givenSettings({ store, keyring }: GlobalFlags, { environment, folder }: Surroundings): Settings {
  const givenStore = store ?? nonEmpty(environment.THAW_STORE)
  const givenKeyring = keyring === false ? undefined : (keyring ?? nonEmpty(environment.THAW_KEYRING))
  return settingsAt(folder, givenStore, givenKeyring)
}

/** The config file that flags or environment name, as an absolute path. */
export function namedConfig({ config }: GlobalFlags, { environment, folder }: Surroundings): string | undefined {
  const named = config ?? nonEmpty(environment.THAW_CONFIG)
  return named === undefined ? undefined : resolve(folder, named)
}

/** The settings in a config file, or undefined if there is no such file. */
export function readConfig(path: string): Settings | undefined {
  const text = readIfThere(path)
  if (text === undefined) return undefined
  const { store, keyring } = parseConfig(text, path)
  return settingsAt(dirname(path), store, keyring)
}

export function formatConfig({ store, keyring }: Settings): string {
  return `${JSON.stringify({ store, keyring }, undefined, 2)}\n`
}

function readFirstConfig(flags: GlobalFlags, around: Surroundings): Settings | undefined {
  const named = namedConfig(flags, around)
  if (named === undefined) return readConfig(resolve(around.folder, CONFIG_NAME)) ?? readConfig(SYSTEM_CONFIG)
  const config = readConfig(named)
  if (config === undefined) throw new UsageError(`there is no config at ${named}: make one with \`thaw init\``)
  return config
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw new UsageError(`cannot read config ${path}`, { cause: error })
  }
}

function parseConfig(text: string, path: string): { store?: string; keyring?: string } {
  const config = parseJson(text, path)
  if (typeof config !== 'object' || config === null || Array.isArray(config)) throw new UsageError(`config ${path} is not a JSON object`)
  for (const [name, value] of Object.entries(config)) {
    if (!CONFIG_FIELDS.some(field => field === name)) {
      throw new UsageError(`config ${path} has a member ${JSON.stringify(name)}: known are ${CONFIG_FIELDS.join(', ')}`)
    }
    if (typeof value !== 'string' || value === '') throw new UsageError(`config ${path}: ${name} is not a string with something in it`)
  }
  return config
}

function parseJson(text: string, path: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    throw new UsageError(`config ${path} is not JSON`, { cause: error })
  }
}

function settingsAt(folder: string, store: string | undefined, keyring: string | undefined): Settings {
  return {
    store: store === undefined ? undefined : storeUrl(folder, store),
    keyring: keyring === undefined ? undefined : resolve(folder, keyring),
  }
}

function storeUrl(folder: string, store: string): string {
  if (store === '') throw new UsageError('the store is an empty string: name it as file:///path, a path, or s3://bucket/prefix')
  return SCHEME.test(store) ? store : pathToFileURL(resolve(folder, store)).href
}

function nonEmpty(text: string | undefined): string | undefined {
  return text === '' ? undefined : text
}
