/** The files of an NBD server's TLS, as they are when a client begins: a certificate that was replaced is for those who connect from then on. */
import { readFile } from 'node:fs/promises'
import { createSecureContext } from 'node:tls'
import { fromErrno } from '../../errors.ts'

/** PEM files. */
export interface NbdTlsOptions {
  readonly certFile: string
  readonly keyFile: string
  /** Clients have to show a certificate that it signed. */
  readonly caFile?: string | undefined
}

/** Contents of PEM files. */
export interface TlsTerms {
  readonly cert: Buffer
  readonly key: Buffer
  readonly ca: Buffer | undefined
}

export class TlsFiles {
  readonly #options: NbdTlsOptions
  #last: TlsTerms

  private constructor(options: NbdTlsOptions, terms: TlsTerms) {
    this.#options = options
    this.#last = terms
  }

  /** @throws NOT_FOUND, DENIED, UNAVAILABLE for a file; what OpenSSL says of its content */
  static async open(options: NbdTlsOptions): Promise<TlsFiles> {
    return new TlsFiles(options, await read(options))
  }

  /** For one client. While the files cannot be read, or do not fit together because they are being replaced, those from before. */
  async terms(): Promise<TlsTerms> {
    try {
      this.#last = await read(this.#options)
    } catch {
      // The last that were good.
    }
    return this.#last
  }
}

async function read({ certFile, keyFile, caFile }: NbdTlsOptions): Promise<TlsTerms> {
  const [cert, key, ca] = await Promise.all([contentOf(certFile), contentOf(keyFile), caFile ? contentOf(caFile) : undefined])
  const terms = { cert, key, ca }
  createSecureContext(terms)
  return terms
}

async function contentOf(file: string): Promise<Buffer> {
  try {
    return await readFile(file)
  } catch (error) {
    throw fromErrno(error, 'cannot read', file)
  }
}
