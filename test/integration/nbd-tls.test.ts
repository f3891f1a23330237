/** NBD with TLS, which is served on the caller's thread. */
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises'
import { createConnection } from 'node:net'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { OPTION, OPTION_REPLY } from '../../src/frontend/nbd/protocol.ts'
import type { Restore } from '../../src/index.ts'
import { CLIENT_FLAGS, go, option, optionReplies } from '../nbd/client.ts'
import { run, runWell, type ServedDisk, serveDisk, servedDisk } from './nbd-served.ts'

let disk: ServedDisk
let restore: Restore
let certificates: string
beforeAll(async () => {
  disk = await servedDisk(1500)
  restore = (await disk.restore()).restore
  certificates = join(disk.dir, 'pki')
  await makeCertificates(certificates)
})
afterAll(() => disk[Symbol.asyncDispose]())

/** A CA, a server's certificate for 127.0.0.1, and a client's, as libnbd looks for them. */
async function makeCertificates(folder: string): Promise<void> {
  await mkdir(folder)
  const file = (name: string): string => join(folder, name)
  const key = ['-newkey', 'rsa:2048', '-nodes', '-batch']
  await runWell('openssl', [
    'req',
    '-x509',
    ...key,
    '-keyout',
    file('ca-key.pem'),
    '-out',
    file('ca-cert.pem'),
    '-subj',
    '/CN=thaw test CA',
    '-days',
    '1',
  ])
  await writeFile(file('names'), 'subjectAltName=IP:127.0.0.1,DNS:localhost\n')
  for (const who of ['server', 'client']) {
    await runWell('openssl', ['req', ...key, '-keyout', file(`${who}-key.pem`), '-out', file(`${who}.csr`), '-subj', `/CN=${who}`])
    const signed = ['-CA', file('ca-cert.pem'), '-CAkey', file('ca-key.pem'), '-CAcreateserial', '-days', '1', '-extfile', file('names')]
    await runWell('openssl', ['x509', '-req', '-in', file(`${who}.csr`), ...signed, '-out', file(`${who}-cert.pem`)])
  }
}

const tls = (isMutual = false): { certFile: string; keyFile: string; caFile?: string } => ({
  certFile: join(certificates, 'server-cert.pem'),
  keyFile: join(certificates, 'server-key.pem'),
  ...(isMutual && { caFile: join(certificates, 'ca-cert.pem') }),
})
const withCertificates = (uri: string, folder = certificates): string => `${uri}?tls-certificates=${folder}`

describe('with TLS', () => {
  it('a disk is read, over several connections', async () => {
    await using server = await serveDisk(disk, restore, { listen: { host: '127.0.0.1', port: 0 }, tls: tls() })
    expect(server.uri).toMatch(/^nbds:/)
    const described = JSON.parse(await runWell('nbdinfo', ['--json', withCertificates(server.uri)]))
    expect(described).toMatchObject({ TLS: true, structured: true })
    const target = join(disk.dir, 'tls.img')
    await runWell('nbdcopy', ['--connections=2', withCertificates(server.uri), target])
    expect((await readFile(target)).equals(disk.image)).toBe(true)
  })

  it('a disk is written to, on a Unix socket', async () => {
    const { restore: own } = await disk.restore()
    const server = await serveDisk(disk, own, { tls: tls(), writable: true })
    const reversed = Buffer.from(disk.image).reverse()
    const [source, target] = [join(disk.dir, 'tls-source.img'), join(disk.dir, 'tls-back.img')]
    await writeFile(source, reversed)
    const uri = `${server.uri}&tls-certificates=${certificates}&tls-hostname=localhost`
    await runWell('nbdcopy', [source, uri])
    await runWell('nbdcopy', [uri, target])
    expect((await readFile(target)).equals(reversed)).toBe(true)
    await own.close()
  })

  it('nothing is told to who does not begin it', async () => {
    await using server = await serveDisk(disk, restore, { tls: tls() })
    const plain = server.uri.replace('nbds', 'nbd')
    expect((await run('nbdinfo', [plain])).code).not.toBe(0)
    const socket = createConnection(new URL(plain).searchParams.get('socket')!)
    socket.write(Buffer.concat([CLIENT_FLAGS, option(OPTION.go, go('')), option(OPTION.startTls), option(OPTION.list)]))
    const parts: Buffer[] = []
    for await (const part of socket as AsyncIterable<Buffer>) parts.push(part)
    const replies = optionReplies(Buffer.concat(parts).subarray(18))
    expect(replies.map(({ type }) => type)).toEqual([OPTION_REPLY.tlsRequired, OPTION_REPLY.ack])
  })

  it('a certificate that was replaced is for those who connect from then on', async () => {
    const [served, later] = [join(disk.dir, 'served'), join(disk.dir, 'later')]
    await makeCertificates(later)
    await mkdir(served)
    const takeFrom = async (folder: string): Promise<void> => {
      for (const name of ['server-cert.pem', 'server-key.pem']) await copyFile(join(folder, name), join(served, name))
    }
    await takeFrom(certificates)
    const files = { certFile: join(served, 'server-cert.pem'), keyFile: join(served, 'server-key.pem') }
    await using server = await serveDisk(disk, restore, { listen: { host: '127.0.0.1', port: 0 }, tls: files })
    const size = `${disk.image.length}\n`
    expect(await runWell('nbdinfo', ['--size', withCertificates(server.uri)])).toBe(size)
    // Half of it: the certificate and the key from before serve on.
    await writeFile(files.certFile, 'half a fi')
    expect(await runWell('nbdinfo', ['--size', withCertificates(server.uri)])).toBe(size)
    await takeFrom(later)
    expect(await runWell('nbdinfo', ['--size', withCertificates(server.uri, later)])).toBe(size)
    expect((await run('nbdinfo', ['--size', withCertificates(server.uri)])).code).not.toBe(0)
  })

  it('a client shows its certificate where one is asked for', async () => {
    await using server = await serveDisk(disk, restore, { listen: { host: '127.0.0.1', port: 0 }, tls: tls(true) })
    expect(await runWell('nbdinfo', ['--size', withCertificates(server.uri)])).toBe(`${disk.image.length}\n`)
    const strangers = join(disk.dir, 'strangers')
    await mkdir(strangers)
    await copyFile(join(certificates, 'ca-cert.pem'), join(strangers, 'ca-cert.pem'))
    expect((await run('nbdinfo', ['--size', withCertificates(server.uri, strangers)])).code).not.toBe(0)
    expect(server.connections).toBe(0)
  })
})
