/**
 * The keyring in a file of its own, mode 0600: the embedded default behind the contract of `keys.ts`.
 *
 * Invariants
 * - A file that group or others may read or write is not used.
 * - A keyring is never overwritten by a new one: secrets that are gone cannot be made again. Updates happen under a lock, on what the file holds
 *   then, so two processes that add tenants at once both keep theirs.
 * - No message contains a secret.
 *
 * The file is read once, when it is opened, and again by each update. What another process adds meanwhile is not seen: open it again.
 */
import { randomBytes } from 'node:crypto'
import { constants } from 'node:fs'
import { open, realpath } from 'node:fs/promises'
import { fromErrno, isThawError, ThawError } from '../errors.ts'
import type { Keyring, Kinship, Layer, Sealer, SealerOptions, Signature, WrappedKey } from '../keys.ts'
import { checkTenantName } from '../names.ts'
import { createFileAtomic, replaceFileAtomic } from '../util/atomic-file.ts'
import { withLockFile } from '../util/lock-file.ts'
import { checkValuesOf, kinshipOf } from './check.ts'
import { type DomainOptions, newKeyring, newTenant } from './create.ts'
import { type Domain, formatKeyring, type KeyringDocument, parseKeyring, type Role, SECRET_BYTES } from './document.ts'
import { type ExportOptions, exportedDocument, unknownTenant } from './export.ts'
import { type KeyListing, listKeys } from './list.ts'
import { signMessage, verifyMessage } from './signing.ts'
import { unwrapDataKey, type WrappingKey, wrapDataKey } from './wrapped.ts'

const MODE = 0o600
const OTHERS_READ_OR_WRITE = 0o066
/** 32 MiB: some fifty thousand tenants. */
const KEYRING_BYTES_MAX = 32 * 1024 * 1024

/**
 * Opens a keyring file.
 * @throws NOT_FOUND if there is none, DENIED if others may read or write it, BAD_FORMAT if it is damaged.
 */
export async function fileKeyring(path: string): Promise<FileKeyring> {
  return new FileKeyring(path, await load(path))
}

/** Makes a publisher's keyring, all secrets fresh. CONFLICT, and nothing touched, if the file is there. */
export async function createFileKeyring(path: string): Promise<FileKeyring> {
  const document = newKeyring()
  await create(path, document)
  return new FileKeyring(path, document)
}

/** Only `fileKeyring` and `createFileKeyring` make one. */
export class FileKeyring implements Keyring {
  /** The path, as it was given. */
  readonly name: string
  #document!: KeyringDocument
  #wrappingKeys!: ReadonlyMap<string, WrappingKey>

  constructor(path: string, document: KeyringDocument) {
    this.name = path
    this.#adopt(document)
  }

  get role(): Role {
    return this.#document.role
  }

  async sealer(layer: Layer, tenant: string | undefined, { orOwnSecret }: SealerOptions = {}): Promise<Sealer> {
    const shared = layer !== 'function' || tenant === undefined
    const { domain, compress, pad, secrets } = shared ? this.#document.layers[layer] : this.#tenant(tenant)
    const newest = secrets.at(-1)
    if (newest === undefined && orOwnSecret) return { layer, domain, secret: randomBytes(SECRET_BYTES), compress, pad }
    if (newest === undefined) throw this.#lacks(shared ? `a secret of the ${layer} layer` : `the secret of tenant ${tenant}`, 'seal')
    return { layer, domain, secret: newest.secret.slice(), compress, pad }
  }

  async wrap(dataKey: Uint8Array, snapshotId: Uint8Array, tenant: string | undefined): Promise<WrappedKey> {
    const keys = tenant === undefined ? this.#document.platformKeys : this.#tenant(tenant).keys
    const newest = keys.at(-1)
    const owner = tenant === undefined ? 'the platform' : `tenant ${tenant}`
    if (newest === undefined) throw this.#lacks(`a key of ${owner}`, 'wrap')
    return wrapDataKey(dataKey, snapshotId, newest)
  }

  async unwrap(wrapped: readonly WrappedKey[], snapshotId: Uint8Array): Promise<Uint8Array> {
    for (const candidate of wrapped) {
      const key = this.#wrappingKeys.get(candidate.keyId)
      const dataKey = key && unwrapDataKey(candidate, snapshotId, key)
      if (dataKey !== undefined) return dataKey
    }
    const held = wrapped.some(({ keyId }) => this.#wrappingKeys.has(keyId))
    const why = held ? 'its wrapped key does not open: damaged, or of another snapshot' : 'none of the keys that open it is held'
    throw new ThawError('WRONG_KEY', `${this.name} cannot open this snapshot: ${why}`, { object: Buffer.from(snapshotId).toString('hex') })
  }

  async sign(message: Uint8Array): Promise<Signature> {
    const newest = this.#document.signingKeys.at(-1)
    if (newest?.privateKey === undefined) throw this.#lacks('a private signing key', 'sign')
    const { id, privateKey, publicKey } = newest
    return { keyId: id, signature: signMessage(message, { privateKey, publicKey }) }
  }

  async verify(message: Uint8Array, { keyId, signature }: Signature): Promise<boolean> {
    const signer = this.#document.signingKeys.find(({ id }) => id === keyId)
    return signer !== undefined && verifyMessage(message, signature, signer.publicKey)
  }

  async tenants(): Promise<readonly string[]> {
    return [...this.#document.tenants.keys()].sort()
  }

  async checkValues(storeId: string): Promise<ReadonlyMap<string, string>> {
    const values = checkValuesOf(this.#document.layers, storeId)
    if (values === undefined) throw this.#lacks('the secrets of all layers', 'make a store')
    return values
  }

  async kinship(storeId: string, checks: ReadonlyMap<string, string>): Promise<Kinship> {
    return kinshipOf(this.#document.layers, storeId, checks)
  }

  /** What `thaw key ls` prints: no secrets. */
  list(): KeyListing[] {
    return listKeys(this.#document)
  }

  /** Makes a tenant's secret and key, durably. CONFLICT if the tenant is there, perhaps by another process just now: then it is held here from now on. */
  async createTenant(tenant: string, options: DomainOptions = {}): Promise<void> {
    checkTenantName(tenant)
    if (this.role === 'worker') throw this.#lacks('what it takes', 'create a tenant')
    await this.#update(document => {
      if (document.tenants.has(tenant)) {
        throw new ThawError('CONFLICT', `${this.name} holds keys of tenant ${tenant} already`, { object: tenant })
      }
      return { ...document, tenants: new Map(document.tenants).set(tenant, newTenant(options)) }
    })
  }

  /** Writes a keyring of less power to a new file. CONFLICT if that file is there, WRONG_KEY if what it asks for is not here. */
  async exportKeyring(path: string, role: Role, options: ExportOptions = {}): Promise<FileKeyring> {
    const document = exportedDocument(this.#document, role, options, this.name)
    await create(path, document)
    return new FileKeyring(path, document)
  }

  async #update(change: (document: KeyringDocument) => KeyringDocument): Promise<void> {
    // Behind a symbolic link, the file is what must be replaced and locked, not the link.
    const path = await realpath(this.name).catch(error => Promise.reject(fromErrno(error, 'cannot update keyring', this.name)))
    await withLockFile(`${path}.lock`, async () => {
      this.#adopt(await load(path))
      const changed = change(this.#document)
      await replaceFileAtomic(path, bytesOf(changed), { mode: MODE })
      this.#adopt(changed)
    })
  }

  #adopt(document: KeyringDocument): void {
    this.#document = document
    const tenantKeys = [...document.tenants.values()].flatMap(({ keys }) => keys)
    this.#wrappingKeys = new Map([...document.platformKeys, ...tenantKeys].map(key => [key.id, key]))
  }

  #tenant(tenant: string): Domain & { readonly keys: readonly WrappingKey[] } {
    const keys = this.#document.tenants.get(tenant)
    if (keys !== undefined) return keys
    throw this.role === 'worker' ? this.#lacks(`keys of tenant ${tenant}`, 'seal or wrap for it') : unknownTenant(this.name, tenant)
  }

  #lacks(what: string, toDo: string): ThawError {
    const kind = this.role === 'worker' ? "is a worker's keyring, without" : 'has not'
    return new ThawError('WRONG_KEY', `${this.name} ${kind} ${what}: it cannot ${toDo}`, { object: this.name })
  }
}

async function create(path: string, document: KeyringDocument): Promise<void> {
  await createFileAtomic(path, bytesOf(document), { mode: MODE })
}

async function load(path: string): Promise<KeyringDocument> {
  try {
    // Non-blocking, so that a FIFO in the file's place is refused and not waited for.
    await using file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK)
    const { mode, size } = await file.stat()
    if ((mode & constants.S_IFMT) !== constants.S_IFREG || size > KEYRING_BYTES_MAX) {
      throw new ThawError('BAD_FORMAT', `${path} is not a keyring: not a file, or too large`, { object: path })
    }
    if ((mode & OTHERS_READ_OR_WRITE) !== 0) {
      throw new ThawError('DENIED', `${path} may be read or written by others: run \`chmod 600 ${quoted(path)}\``, { object: path })
    }
    return parseKeyring(await file.readFile('utf8'), path)
  } catch (error) {
    const failure = fromErrno(error, 'cannot read keyring', path)
    if (!isThawError(failure, 'NOT_FOUND')) throw failure
    throw new ThawError('NOT_FOUND', `there is no keyring at ${path}: make one with \`thaw init\``, { cause: error, object: path })
  }
}

function bytesOf(document: KeyringDocument): Uint8Array {
  return Buffer.from(formatKeyring(document))
}

function quoted(path: string): string {
  return /^[\w./-]+$/.test(path) ? path : `'${path.replaceAll("'", `'\\''`)}'`
}
