/**
 * The config file: the one that is named, which must be there, else `thaw.json` in the current folder, else `/etc/thaw/thaw.json`.
 *
 * A member that is not known, or of another type than it should be, makes the whole file wrong, for every command: what is misspelt would otherwise be ignored.
 * What a value means is for those who use it (settings.ts, cache-settings.ts).
 */
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { UsageError } from './exit.ts'

export const CONFIG_NAME = 'thaw.json'
const SYSTEM_CONFIG = '/etc/thaw/thaw.json'

export interface Config {
  readonly store?: string
  readonly keyring?: string
  readonly cacheMemory?: string | number
  readonly cacheDir?: string
  readonly cacheDisk?: string | number
  readonly l2?: string | readonly string[]
  readonly l2Mode?: string
  readonly l2Erasure?: boolean
  readonly l2PasswordFile?: string
  readonly l2Ca?: string
  readonly metrics?: string
  readonly stateDir?: string
}

export interface FoundConfig {
  /** Absolute; paths in the config are relative to its folder. */
  readonly path: string
  readonly members: Config
}

interface Kind {
  readonly what: string
  readonly fits: (value: unknown) => boolean
}

const TEXT: Kind = { what: 'a string with something in it', fits: value => typeof value === 'string' && value !== '' }
const SIZE: Kind = { what: 'a size such as "10G", or a number of bytes', fits: value => TEXT.fits(value) || typeof value === 'number' }
const TEXTS: Kind = {
  what: 'a string, or an array of strings, with something in them',
  fits: value => TEXT.fits(value) || (Array.isArray(value) && value.length > 0 && value.every(TEXT.fits)),
}
const TRUTH: Kind = { what: 'true or false', fits: value => typeof value === 'boolean' }

const MEMBERS: Readonly<Record<keyof Config, Kind>> = {
  store: TEXT,
  keyring: TEXT,
  cacheMemory: SIZE,
  cacheDir: TEXT,
  cacheDisk: SIZE,
  l2: TEXTS,
  l2Mode: TEXT,
  l2Erasure: TRUTH,
  l2PasswordFile: TEXT,
  l2Ca: TEXT,
  metrics: TEXT,
  stateDir: TEXT,
}

/**
 * The config that counts, or undefined if there is none.
 * @param named the file that flags or environment name, an absolute path
 * @throws UsageError if the one that is named is not there, or if the one that counts is not as it should be
 */
export function findConfig(named: string | undefined, folder: string): FoundConfig | undefined {
  if (named === undefined) return readConfig(resolve(folder, CONFIG_NAME)) ?? readConfig(SYSTEM_CONFIG)
  const config = readConfig(named)
  if (config === undefined) throw new UsageError(`there is no config at ${named}: make one with \`thaw init\``)
  return config
}

/** The config in a file, or undefined if there is no such file. */
export function readConfig(path: string): FoundConfig | undefined {
  const text = readIfThere(path)
  return text === undefined ? undefined : { path, members: parseConfig(text, path) }
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw new UsageError(`cannot read config ${path}`, { cause: error })
  }
}

function parseConfig(text: string, path: string): Config {
  const config = parseJson(text, path)
  if (typeof config !== 'object' || config === null || Array.isArray(config)) throw new UsageError(`config ${path} is not a JSON object`)
  const kinds = new Map(Object.entries(MEMBERS))
  for (const [name, value] of Object.entries(config)) {
    const kind = kinds.get(name)
    if (kind === undefined) {
      throw new UsageError(`config ${path} has a member ${JSON.stringify(name)}: known are ${[...kinds.keys()].join(', ')}`)
    }
    if (!kind.fits(value)) throw new UsageError(`config ${path}: ${name} is not ${kind.what}`)
  }
  return config
}

/** What is wrong with the text is not repeated as a cause: it may hold a password. */
function parseJson(text: string, path: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw new UsageError(`config ${path} is not JSON`)
  }
}
