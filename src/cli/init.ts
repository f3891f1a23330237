/**
 * `thaw init`: a store, a keyring and a config that names both. What is there stays as it is, so it may be run again at any time.
 *
 * A keyring is made only for a store that is not there yet: fresh secrets could open nothing in one that is.
 */
import { lstat, writeFile } from 'node:fs/promises'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { createFileKeyring, type FileKeyring, fileKeyring, initStore, isThawError, openStore, ThawError } from '../index.ts'
import { CONFIG_NAME } from './config.ts'
import type { Invocation } from './invocation.ts'
import { configSettings, formatConfig, givenSettings, namedConfig, type Settings, surroundings } from './settings.ts'

const STORE_FOLDER = 'thaw-store'
const KEYRING_NAME = 'thaw.keys'

interface Plan {
  readonly store: string
  readonly keyring: string
  readonly config: string
  readonly configIsThere: boolean
}

export async function init({ flags, output, signal }: Invocation): Promise<void> {
  const around = surroundings()
  const config = namedConfig(flags, around) ?? resolve(around.folder, CONFIG_NAME)
  const plan = planFor(config, givenSettings(flags, around), around.folder)
  const keyring = await findOrMakeKeyring(plan, signal)
  const store = await initStore(plan.store, { keyring: keyring.keyring, signal })
  if (!plan.configIsThere) await writeConfig(plan)
  const made = { store: store.created, keyring: keyring.made, config: !plan.configIsThere }
  output.done({ storeId: store.store, root: store.root, store: plan.store, keyring: plan.keyring, config: plan.config, made }, () => [
    `${verb(made.store)} store ${plan.store}`,
    `${verb(made.keyring)} keyring ${plan.keyring}${made.keyring ? ': keep a copy, without it nothing can be opened' : ''}`,
    `${verb(made.config)} config ${plan.config}`,
  ])
}

function planFor(config: string, given: Settings, folder: string): Plan {
  const there = configSettings(config)
  for (const setting of ['store', 'keyring'] as const) {
    const [wanted, named] = [given[setting], there?.[setting]]
    if (wanted === undefined || named === undefined || wanted === named) continue
    const advice = 'change it there, or give another file with --config'
    throw new ThawError('CONFLICT', `config ${config} names another ${setting}, ${named}: ${advice}`, { object: config })
  }
  return {
    store: given.store ?? there?.store ?? pathToFileURL(resolve(folder, STORE_FOLDER)).href,
    keyring: given.keyring ?? there?.keyring ?? resolve(folder, KEYRING_NAME),
    config,
    configIsThere: there !== undefined,
  }
}

async function findOrMakeKeyring({ store, keyring }: Plan, signal: AbortSignal): Promise<{ keyring: FileKeyring; made: boolean }> {
  if (await isThere(keyring)) return { keyring: await fileKeyring(keyring), made: false }
  if (await isStore(store, signal)) {
    const advice = 'name it with --keyring FILE; a new one could not open what is there'
    throw new ThawError('WRONG_KEY', `${store} was made with a keyring that is not at ${keyring}: ${advice}`, { object: keyring })
  }
  return { keyring: await createFileKeyring(keyring), made: true }
}

async function isStore(url: string, signal: AbortSignal): Promise<boolean> {
  try {
    await (await openStore(url, { signal })).close()
    return true
  } catch (error) {
    if (isThawError(error, 'NOT_FOUND')) return false
    throw error
  }
}

async function isThere(path: string): Promise<boolean> {
  try {
    await lstat(path)
    return true
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return false
    throw error
  }
}

async function writeConfig({ store, keyring, config }: Plan): Promise<void> {
  try {
    await writeFile(config, formatConfig({ store, keyring }), { flag: 'wx' })
  } catch (error) {
    throw new ThawError('DENIED', `cannot write config ${config}; store and keyring are made`, { cause: error, object: config })
  }
}

function verb(made: boolean): string {
  return made ? 'made' : 'kept'
}
