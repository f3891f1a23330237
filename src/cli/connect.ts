/** From the settings to an open store and keyring: where command modules meet the library. */
import { type Cache, type FileKeyring, fileKeyring, openStore, type SnapshotStore } from '../index.ts'
import { UsageError } from './exit.ts'
import type { Invocation } from './invocation.ts'
import { readSettings, type Settings } from './settings.ts'

export interface ConnectOptions {
  readonly requireProfile?: boolean
  /** What is read through (read-through.ts). */
  readonly cache?: Cache | undefined
}

/** The store, with the keyring if one is set: without, what needs no key. The caller closes it. */
export async function connect(invocation: Invocation, options: Pick<ConnectOptions, 'cache'> = {}): Promise<SnapshotStore> {
  const settings = readSettings(invocation.flags)
  const url = requireStore(settings)
  const keyring = settings.keyring === undefined ? undefined : await fileKeyring(settings.keyring)
  return await openStore(url, { keyring, signal: invocation.signal, ...options })
}

/** The store and its keyring, for what cannot be done without keys. The caller closes the store. */
export async function connectWithKeys(
  invocation: Invocation,
  options: ConnectOptions = {},
): Promise<{ store: SnapshotStore; keyring: FileKeyring }> {
  const settings = readSettings(invocation.flags)
  const url = requireStore(settings)
  const keyring = await fileKeyring(requireKeyring(settings))
  return { keyring, store: await openStore(url, { keyring, signal: invocation.signal, ...options }) }
}

export async function openKeyring(invocation: Invocation): Promise<FileKeyring> {
  return await fileKeyring(requireKeyring(readSettings(invocation.flags)))
}

function requireStore({ store }: Settings): string {
  if (store !== undefined) return store
  throw new UsageError('no store is set: make one here with `thaw init`, or name it with --store URL, THAW_STORE or a config file')
}

function requireKeyring({ keyring }: Settings): string {
  if (keyring !== undefined) return keyring
  throw new UsageError(
    'this needs a keyring and none is set: make one with `thaw init`, or name it with --keyring FILE, THAW_KEYRING or a config file',
  )
}
