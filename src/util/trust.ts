/**
 * Whom a TLS client trusts: the certificates that Node brings along, and beside them the system's and
 * those of files that somebody named; or those of one file alone.
 *
 * Node by itself trusts only what it brings along (unless told otherwise when it starts), so a CA that
 * the machine's administrator installed was unknown. The files are looked at again for each connection,
 * and read again when one changed: certificates are replaced while a process runs.
 * `tls.getCACertificates('system')` reads the same once a process, so it is not used here.
 */
import { readdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { createSecureContext, getCACertificates, type SecureContext } from 'node:tls'
import { fromErrno, ThawError } from '../errors.ts'

/** Where distributions keep them (Go's crypto/x509/root_linux.go); the first that is there counts. */
const SYSTEM_FILES: readonly string[] = [
  '/etc/ssl/certs/ca-certificates.crt',
  '/etc/pki/tls/certs/ca-bundle.crt',
  '/etc/ssl/ca-bundle.pem',
  '/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem',
  '/etc/ssl/cert.pem',
]
const CERTIFICATE = /-----BEGIN (?:TRUSTED )?CERTIFICATE-----[^-]+-----END (?:TRUSTED )?CERTIFICATE-----/g

export interface TrustOptions {
  /** A PEM file whose certificates are trusted, and no others. */
  readonly onlyFile?: string | undefined
  /** A PEM file whose certificates are trusted too. */
  readonly moreFile?: string | undefined
}

interface PemFile {
  readonly path: string
  /** By which a change is known; undefined: it is not there. */
  readonly version: string | undefined
  /** Somebody relies on it. */
  readonly isNamed: boolean
}

export class Trust {
  readonly #options: TrustOptions
  #versions: string | undefined
  #context: SecureContext | undefined

  constructor(options: TrustOptions = {}) {
    this.#options = options
  }

  /**
   * For one connection. What cannot be read any more is trusted as it was.
   * @throws a ThawError if a file that was named cannot be read, or holds no certificate, and never did
   */
  async context(): Promise<SecureContext> {
    try {
      const files = await this.#files()
      const versions = files.map(({ path, version }) => `${path} ${version}`).join('\n')
      if (this.#context === undefined || versions !== this.#versions) {
        this.#context = createSecureContext({ ca: await this.#certificates(files) })
        this.#versions = versions
      }
    } catch (error) {
      if (this.#context === undefined) throw error
    }
    return this.#context
  }

  async #files(): Promise<readonly PemFile[]> {
    const { onlyFile, moreFile } = this.#options
    if (onlyFile !== undefined) return [await named(onlyFile)]
    const more = moreFile === undefined ? [] : [await named(moreFile)]
    const { SSL_CERT_FILE, SSL_CERT_DIR } = process.env
    const candidates = await Promise.all((SSL_CERT_FILE ? [SSL_CERT_FILE] : SYSTEM_FILES).map(seen))
    const folders = await Promise.all((SSL_CERT_DIR ?? '').split(':').filter(Boolean).map(pathsIn))
    const inFolders = await Promise.all(folders.flat().map(seen))
    return [...candidates.filter(isThere).slice(0, 1), ...inFolders.filter(isThere), ...more]
  }

  async #certificates(files: readonly PemFile[]): Promise<string[]> {
    const texts = await Promise.all(files.map(readPem))
    const found = texts.flatMap(text => text.match(CERTIFICATE) ?? [])
    const { onlyFile } = this.#options
    if (onlyFile !== undefined && found.length === 0)
      throw new ThawError('BAD_FORMAT', `no certificate in ${onlyFile}`, { object: onlyFile })
    const all = onlyFile === undefined ? [...getCACertificates('default'), ...found] : found
    // Each once, because parsing them is what takes long (100 µs each), and most are in both lists.
    return [...new Map(all.map(pem => [pem.replace(/\s/g, ''), pem])).values()]
  }
}

async function named(path: string): Promise<PemFile> {
  try {
    const found = await stat(path)
    const version = found.isFile() ? `${found.ino} ${found.size} ${found.mtimeMs}` : undefined
    return { path, version, isNamed: true }
  } catch (error) {
    throw fromErrno(error, 'cannot read certificates', path)
  }
}

/** One that may be there, or be something else. */
async function seen(path: string): Promise<PemFile> {
  const { version } = await named(path).catch(() => ({ version: undefined }))
  return { path, version, isNamed: false }
}

function isThere({ version }: PemFile): boolean {
  return version !== undefined
}

async function pathsIn(folder: string): Promise<string[]> {
  const names = await readdir(folder).catch(() => [])
  return names.sort().map(name => join(folder, name))
}

async function readPem({ path, isNamed }: PemFile): Promise<string> {
  try {
    return await readFile(path, 'latin1')
  } catch (error) {
    if (!isNamed) return ''
    throw fromErrno(error, 'cannot read certificates', path)
  }
}
