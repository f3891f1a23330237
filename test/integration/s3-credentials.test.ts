/** Keys of a real MinIO that are replaced while a store is open, wherever the new ones come from. */
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { inspect } from 'node:util'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { openObjectStore } from '../../src/store/open.ts'
import { type Minio, startMinio } from '../servers/minio.ts'

type Keys = Minio['credentials']

/** Where the default chain may find keys. */
interface Source extends AsyncDisposable {
  /** From now on it gives these. */
  replace(keys: Keys): Promise<void>
}

/** Of this process; emptied of what else the chain would look at first. */
function setEnvironment(variables: Readonly<Record<string, string>>): void {
  for (const name of Object.keys(process.env)) if (name.startsWith('AWS_')) vi.stubEnv(name, undefined)
  for (const [name, value] of Object.entries({ AWS_REGION: 'us-east-1', ...variables })) vi.stubEnv(name, value)
}

async function sharedFile(): Promise<Source> {
  const folder = await mkdtemp(join(tmpdir(), 'thaw-aws-'))
  const file = join(folder, 'credentials')
  setEnvironment({ AWS_SHARED_CREDENTIALS_FILE: file, AWS_CONFIG_FILE: join(folder, 'config') })
  return {
    replace: keys =>
      writeFile(file, `[default]\naws_access_key_id = ${keys.accessKeyId}\naws_secret_access_key = ${keys.secretAccessKey}\n`),
    [Symbol.asyncDispose]: () => rm(folder, { recursive: true }),
  }
}

/** A server that answers each request with what `answer` makes of the keys of the day. */
async function keyServer(answer: (keys: Keys) => string): Promise<Source & { readonly url: string }> {
  let keys: Keys = { accessKeyId: 'none', secretAccessKey: 'none' }
  const server = createServer((_, response) => void response.end(answer(keys))).listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    async replace(others) {
      keys = others
    },
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
}

/** As a container's metadata has them: for an hour. */
async function containerMetadata(): Promise<Source> {
  const server = await keyServer(({ accessKeyId, secretAccessKey }) =>
    JSON.stringify({
      AccessKeyId: accessKeyId,
      SecretAccessKey: secretAccessKey,
      Token: '',
      Expiration: new Date(Date.now() + 3_600_000).toISOString(),
    }),
  )
  setEnvironment({
    AWS_CONTAINER_CREDENTIALS_FULL_URI: `${server.url}/role`,
    AWS_SHARED_CREDENTIALS_FILE: '/dev/null',
    AWS_CONFIG_FILE: '/dev/null',
  })
  return server
}

describe('keys that a server takes no more', () => {
  let minio: Minio
  beforeEach(async () => {
    minio = await startMinio()
  })
  afterEach(async () => {
    vi.unstubAllEnvs()
    await minio.stop()
  })

  it.each([
    ['the shared file', sharedFile],
    ["the container's metadata", containerMetadata],
  ])('are replaced in %s: a store that is open reads and writes on', async (_, open) => {
    await using source = await open()
    await source.replace(minio.credentials)
    await using store = await openObjectStore(`s3://${await minio.createBucket()}?endpoint=${minio.endpoint}`)
    await store.put('a', Buffer.from('before'))

    const others = { accessKeyId: 'thaw-others', secretAccessKey: 'another-secret' }
    await minio.restartAs(others)
    await expect(store.get('a', { sizeMax: 10 })).rejects.toMatchObject({ code: 'DENIED' })
    await source.replace(others)
    const reads = Array.from({ length: 50 }, () => store.get('a', { sizeMax: 10 }))
    for (const bytes of await Promise.all(reads)) expect(Buffer.from(bytes).toString()).toBe('before')
    await minio.restartAs({ ...others, secretAccessKey: 'a-third-secret' })
    await source.replace(minio.credentials)
    expect((await store.head('a'))?.sizeBytes).toBe(6)
    await store.put('b', Buffer.from('after'))
    expect(await Array.fromAsync(store.list(''), ({ key }) => key)).toEqual(['a', 'b'])
  })

  it('and are being replaced: that may pass, until there are new ones', async () => {
    await using source = await sharedFile()
    await source.replace(minio.credentials)
    const url = `s3://${await minio.createBucket()}?endpoint=${minio.endpoint}`
    await using store = await openObjectStore(url, { retry: { attemptsMax: 1 } })
    await store.put('a', Buffer.from('before'))

    const others = { accessKeyId: 'thaw-others', secretAccessKey: 'another-secret' }
    await minio.restartAs(others)
    await writeFile(process.env.AWS_SHARED_CREDENTIALS_FILE!, '[default]\naws_access_key_id = thaw-oth')
    await expect(store.get('a', { sizeMax: 10 })).rejects.toMatchObject({ code: 'UNAVAILABLE' })
    await source.replace(others)
    expect(await store.get('a', { sizeMax: 10 })).toHaveLength(6)
  })
})

it('a metadata service that answers with half a document is UNAVAILABLE, and nothing of it is said', async () => {
  const server = await keyServer(() => '{"AccessKeyId": "id", "SecretAccessKey": hidden')
  await using _ = server
  setEnvironment({
    AWS_CONTAINER_CREDENTIALS_FULL_URI: `${server.url}/role`,
    AWS_SHARED_CREDENTIALS_FILE: '/dev/null',
    AWS_CONFIG_FILE: '/dev/null',
  })
  await using store = await openObjectStore('s3://bucket?endpoint=http://127.0.0.1:9', { retry: { attemptsMax: 1 } })
  const error: unknown = await store.get('a', { sizeMax: 10 }).catch((failure: unknown) => failure)
  vi.unstubAllEnvs()
  expect(error).toMatchObject({ code: 'UNAVAILABLE' })
  expect(inspect(error)).not.toContain('hidden')
})
