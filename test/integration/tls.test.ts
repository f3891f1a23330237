/** Real servers behind TLS, of a CA that is known in one way or another, and certificates and passwords that are replaced while a client is open. */
import { once } from 'node:events'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { type AddressInfo, connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createServer } from 'node:tls'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { openRedisCache } from '../../src/cache/redis.ts'
import { openObjectStore } from '../../src/store/open.ts'
import { makeCertificates } from '../servers/certificates.ts'
import { startMinio } from '../servers/minio.ts'
import { startRedis, until } from '../servers/redis.ts'
import { filled, untilServing } from '../servers/redis-probe.ts'

let folder: string
const opened: AsyncDisposable[] = []

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'thaw-tls-'))
})
afterEach(async () => {
  vi.unstubAllEnvs()
  for (const each of opened.splice(0).reverse()) await each[Symbol.asyncDispose]()
  await rm(folder, { recursive: true })
})

/** A certificate of a CA of its own. */
async function certificate(name: string): Promise<{ ca: Buffer; cert: Buffer; key: Buffer }> {
  const place = join(folder, name)
  await mkdir(place)
  await makeCertificates(place)
  const [ca, cert, key] = await Promise.all(['ca.pem', 'server.pem', 'server.key'].map(file => readFile(join(place, file))))
  return { ca: ca!, cert: cert!, key: key! }
}

describe('an S3 store behind TLS', () => {
  it.each(['AWS_CA_BUNDLE', 'SSL_CERT_FILE'])('is trusted by %s, also when the CA is replaced', async variable => {
    const minio = await startMinio()
    opened.push({ [Symbol.asyncDispose]: () => minio.stop() })
    const [first, second] = await Promise.all([certificate('first'), certificate('second')])
    const sockets = new Set<Socket>()
    const server = createServer(first, client => {
      const upstream = connect(Number(new URL(minio.endpoint).port), '127.0.0.1')
      for (const socket of [client, upstream]) socket.on('error', () => [client, upstream].forEach(each => void each.destroy()))
      client.pipe(upstream).pipe(client)
      sockets.add(client).add(upstream)
    }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    const cut = (): void => sockets.forEach(socket => void socket.destroy())
    opened.push({
      async [Symbol.asyncDispose]() {
        cut()
        server.close()
      },
    })

    const bundle = join(folder, 'bundle.pem')
    await writeFile(bundle, first.ca)
    vi.stubEnv('AWS_ACCESS_KEY_ID', minio.credentials.accessKeyId)
    vi.stubEnv('AWS_SECRET_ACCESS_KEY', minio.credentials.secretAccessKey)
    const url = `s3://${await minio.createBucket()}?endpoint=https://127.0.0.1:${(server.address() as AddressInfo).port}`
    const retry = { attemptsMax: 1 }
    await using stranger = await openObjectStore(url, { retry })
    await expect(stranger.head('a')).rejects.toMatchObject({ code: 'UNAVAILABLE' })

    vi.stubEnv(variable, bundle)
    await using store = await openObjectStore(url, { retry })
    await store.put('a', Buffer.from('x'))
    server.setSecureContext(second)
    cut()
    await expect(store.head('a')).rejects.toMatchObject({ code: 'UNAVAILABLE' })
    await writeFile(bundle, second.ca)
    expect((await store.head('a'))?.sizeBytes).toBe(1)
  })

  it('whose CA bundle is not there is not opened', async () => {
    vi.stubEnv('AWS_CA_BUNDLE', join(folder, 'missing'))
    await expect(openObjectStore('s3://bucket?endpoint=https://127.0.0.1:1')).rejects.toMatchObject({ code: 'NOT_FOUND' })
  })
})

describe('an L2 cache', () => {
  it('behind TLS is trusted by the certificates of the system', async () => {
    const server = await startRedis({ tls: true })
    opened.push({ [Symbol.asyncDispose]: () => server.stop() })
    vi.stubEnv('SSL_CERT_FILE', server.caFile)
    await using cache = await openRedisCache({ urls: [server.url] })
    await filled(cache, 1)
  })

  it('takes up a password that was replaced in its file', async () => {
    const server = await startRedis()
    opened.push({ [Symbol.asyncDispose]: () => server.stop() })
    const passwordFile = join(folder, 'password')
    await writeFile(passwordFile, 'first')
    await server.command('acl', 'setuser', 'thaw', 'on', '>first', '~*', '+@all')
    await using cache = await openRedisCache({ urls: [`redis://thaw@127.0.0.1:${server.port}`], passwordFile })
    await filled(cache, 1)
    await server.command('acl', 'setuser', 'thaw', 'resetpass', '>second')
    await server.command('client', 'kill', 'user', 'thaw')
    await until(async () => (await cache.describe()).remark?.startsWith('DENIED') === true)
    await writeFile(passwordFile, 'second\n')
    await untilServing(cache)
  })
})
