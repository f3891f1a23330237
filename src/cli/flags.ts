/** The options that every command takes, as commander hands them over. */
import type { OutputFlags } from './output.ts'

export interface GlobalFlags extends OutputFlags, CacheFlags {
  readonly store?: string
  /** False: `--no-keyring`. */
  readonly keyring?: string | false
  readonly config?: string
}

/** Members of the config file have the same names. */
export interface CacheFlags {
  readonly cacheMemory?: string
  readonly cacheDir?: string
  readonly cacheDisk?: string
  readonly l2?: readonly string[]
  readonly l2Mode?: string
  readonly l2Erasure?: boolean
  readonly l2PasswordFile?: string
  readonly l2Ca?: string
  readonly metrics?: string
  readonly stateDir?: string
}
