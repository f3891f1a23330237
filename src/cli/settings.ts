/**
 * Where the store and the keyring are: from flags, then the environment, then the config file (config.ts). The first that says something about a setting wins for
 * that setting alone. Settings of caches are in cache-settings.ts.
 *
 * Paths in the config are relative to its folder, paths in flags and the environment to the current one.
 */
import { dirname, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { type FoundConfig, findConfig, readConfig } from './config.ts'
import { UsageError } from './exit.ts'
import type { GlobalFlags } from './flags.ts'

const SCHEME = /^[A-Za-z][A-Za-z0-9+.-]*:/

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
  const config = settingsIn(findConfig(namedConfig(flags, around), around.folder))
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

/** Store and keyring as a config file names them, or undefined if there is no such file. */
export function configSettings(path: string): Settings | undefined {
  return settingsIn(readConfig(path))
}

function settingsIn(config: FoundConfig | undefined): Settings | undefined {
  return config && settingsAt(dirname(config.path), config.members.store, config.members.keyring)
}

export function formatConfig({ store, keyring }: Settings): string {
  return `${JSON.stringify({ store, keyring }, undefined, 2)}\n`
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
