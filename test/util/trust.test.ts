/** Whom TLS clients trust, with a server whose certificate is of a CA that nobody knows. */
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect, createServer, type Server } from 'node:tls'
import { promisify } from 'node:util'
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import { Trust } from '../../src/util/trust.ts'
import { makeCertificates } from '../servers/certificates.ts'

let folder: string
let server: Server

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'thaw-trust-'))
  await makeCertificates(folder)
  const [cert, key] = await Promise.all(['server.pem', 'server.key'].map(name => readFile(join(folder, name))))
  server = createServer({ cert: cert!, key: key! }, socket => socket.end()).listen(0, '127.0.0.1')
  await once(server, 'listening')
})
afterEach(() => vi.unstubAllEnvs())
afterAll(async () => {
  server.close()
  await rm(folder, { recursive: true })
})

async function isTrusted(trust: Trust): Promise<boolean> {
  const socket = connect({ host: '127.0.0.1', port: (server.address() as AddressInfo).port, secureContext: await trust.context() })
  try {
    await once(socket, 'secureConnect')
    return true
  } catch {
    return false
  } finally {
    socket.destroy()
  }
}

describe('a TLS client', () => {
  it('does not trust a CA that nobody named', async () => {
    expect(await isTrusted(new Trust())).toBe(false)
  })

  it('trusts the file of the system', async () => {
    vi.stubEnv('SSL_CERT_FILE', join(folder, 'ca.pem'))
    expect(await isTrusted(new Trust())).toBe(true)
  })

  it('trusts the folders of the system', async () => {
    const certs = join(folder, 'certs')
    await mkdir(certs)
    await copyFile(join(folder, 'ca.pem'), join(certs, 'ca.pem'))
    vi.stubEnv('SSL_CERT_DIR', `/nowhere:${certs}`)
    expect(await isTrusted(new Trust())).toBe(true)
  })

  it('trusts a file that was named, alone or beside the others', async () => {
    expect(await isTrusted(new Trust({ moreFile: join(folder, 'ca.pem') }))).toBe(true)
    expect(await isTrusted(new Trust({ onlyFile: join(folder, 'ca.pem') }))).toBe(true)
  })

  it('trusts a file that was named and nothing else', async () => {
    const other = join(folder, 'other')
    await mkdir(other)
    await makeCertificates(other)
    vi.stubEnv('SSL_CERT_FILE', join(folder, 'ca.pem'))
    expect(await isTrusted(new Trust({ onlyFile: join(other, 'ca.pem') }))).toBe(false)
  })

  it('takes up a file that was replaced, and keeps to what it knew while that cannot be read', async () => {
    const other = join(folder, 'earlier')
    await mkdir(other)
    await makeCertificates(other)
    const file = join(folder, 'rotated.pem')
    await copyFile(join(other, 'ca.pem'), file)
    const trust = new Trust({ onlyFile: file })
    expect(await isTrusted(trust)).toBe(false)
    await copyFile(join(folder, 'ca.pem'), file)
    expect(await isTrusted(trust)).toBe(true)
    await writeFile(file, 'half a fi')
    expect(await isTrusted(trust)).toBe(true)
    await rm(file)
    expect(await isTrusted(trust)).toBe(true)
  })

  it('says which file cannot be read', async () => {
    const missing = join(folder, 'missing.pem')
    await expect(new Trust({ moreFile: missing }).context()).rejects.toMatchObject({ code: 'NOT_FOUND', object: missing })
    await expect(new Trust({ onlyFile: '/dev/null' }).context()).rejects.toMatchObject({ code: 'BAD_FORMAT' })
  })

  it('trusts what Node brings along and what the machine has, from a bare environment', async () => {
    const script = `import { Trust } from ${JSON.stringify(new URL('../../src/util/trust.ts', import.meta.url).href)}
      await new Trust({ moreFile: process.argv[1] }).context()
      process.stdout.write('well')`
    const args = ['--input-type=module', '-e', script, join(folder, 'ca.pem')]
    const { stdout, stderr } = await promisify(execFile)(process.execPath, args, { env: {} })
    expect({ stdout, stderr }).toEqual({ stdout: 'well', stderr: '' })
  })
})
