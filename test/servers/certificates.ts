/** Certificates for servers in tests. */
import { execFile } from 'node:child_process'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { findProgram } from '../../scripts/find-program.ts'

/** A CA of its own and a certificate for 127.0.0.1, good for a day. */
export async function makeCertificates(folder: string): Promise<void> {
  const program = findProgram('openssl')
  if (program === undefined) throw new Error('no openssl: run `npm run setup`')
  const openssl = (...args: readonly string[]) => promisify(execFile)(program, args, { cwd: folder })
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  await openssl('req', '-x509', ...key, '-keyout', 'ca.key', '-out', 'ca.pem', '-subj', '/CN=thaw test CA', '-days', '1')
  await openssl('req', ...key, '-keyout', 'server.key', '-out', 'server.csr', '-subj', '/CN=127.0.0.1')
  await writeFile(join(folder, 'names'), 'subjectAltName=IP:127.0.0.1\n')
  const signed = ['-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-days', '1', '-extfile', 'names']
  await openssl('x509', '-req', '-in', 'server.csr', ...signed, '-out', 'server.pem')
}
