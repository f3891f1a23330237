/** store.json and the roots (FORMAT.md, sections 3 and 4). */
import { fromHex } from './bytes.ts'
import { asHex, asNatural, asObject, asString, asTime, parseHashedDocument } from './documents.ts'
import { FormatError, refuse } from './errors.ts'

/** Gives an object's bytes, or undefined where there is none. */
export type Files = (key: string) => Promise<Uint8Array | undefined>
/** Gives the whole keys of all objects whose key begins with the prefix, at any depth. */
export type List = (prefix: string) => Promise<string[]>

export interface StoreDocument {
  store: string
  createdAt: string
  /** Check values by domain. */
  domains: Map<string, string>
}

export type RootState = 'active' | 'retired' | 'expired'

export interface Root {
  root: string
  createdAt: string
  salt: Uint8Array
  profile: { codec: string; level: number; zstd: string }
  state: RootState
  stateSeq: number
}

const STATES: readonly RootState[] = ['active', 'retired', 'expired']

export async function readExisting(files: Files, key: string): Promise<Uint8Array> {
  const bytes = await files(key)
  if (bytes === undefined) throw new FormatError('NOT_FOUND', key)
  return bytes
}

export async function readStoreDocument(files: Files): Promise<StoreDocument> {
  const what = 'store.json'
  const members = await parseHashedDocument(await readExisting(files, what), ['version', 'store', 'createdAt', 'domains'], what)
  const domains = new Map<string, string>()
  for (const [domain, check] of Object.entries(asObject(members.domains, `${what}: domains`))) {
    domains.set(asHex(domain, 16, `${what}: a domain`), asHex(check, 32, `${what}: a check value`))
  }
  return {
    store: asHex(members.store, 32, `${what}: store`),
    createdAt: asTime(members.createdAt, `${what}: createdAt`),
    domains,
  }
}

/** All roots that have a state: first active ones, then retired, then expired ones. */
export async function readRoots(files: Files, list: List): Promise<Root[]> {
  const highest = new Map<string, number>()
  for (const key of await list('roots/')) {
    const match = /^roots\/([0-9a-f]{16})\/state\/([0-9]{8})$/.exec(key)
    if (match === null) continue
    const [, root = '', seq = ''] = match
    highest.set(root, Math.max(highest.get(root) ?? 0, Number(seq)))
  }
  const roots: Root[] = []
  for (const [root, seq] of highest) roots.push(await readRoot(files, root, seq))
  return roots.sort((a, b) => STATES.indexOf(a.state) - STATES.indexOf(b.state) || (a.root < b.root ? -1 : 1))
}

async function readRoot(files: Files, root: string, seq: number): Promise<Root> {
  const rootKey = `roots/${root}/root.json`
  const document = await parseHashedDocument(
    await readExisting(files, rootKey),
    ['version', 'root', 'createdAt', 'salt', 'profile'],
    rootKey,
  )
  refuse(document.root !== root, `${rootKey}: of another root`)
  const profile = asObject(document.profile, `${rootKey}: profile`)
  refuse(Object.keys(profile).join() !== 'codec,level,zstd', `${rootKey}: other members of profile than codec, level, zstd`)

  const stateKey = `roots/${root}/state/${String(seq).padStart(8, '0')}`
  const entry = await parseHashedDocument(await readExisting(files, stateKey), ['version', 'root', 'seq', 'state', 'at'], stateKey)
  refuse(entry.root !== root || entry.seq !== seq, `${stateKey}: of another root or seq`)
  asTime(entry.at, `${stateKey}: at`)
  const state = STATES.find(known => known === entry.state)
  if (state === undefined) throw new FormatError('BAD_FORMAT', `${stateKey}: an unknown state`)

  return {
    root,
    createdAt: asTime(document.createdAt, `${rootKey}: createdAt`),
    salt: fromHex(asHex(document.salt, 64, `${rootKey}: salt`)),
    profile: {
      codec: asString(profile.codec, `${rootKey}: codec`),
      level: asNatural(profile.level, `${rootKey}: level`),
      zstd: asString(profile.zstd, `${rootKey}: zstd`),
    },
    state,
    stateSeq: seq,
  }
}
