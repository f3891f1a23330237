import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe } from 'vitest'
import { openDirectoryStore } from '../../src/store/directory.ts'
import { faultStore } from '../../src/store/fault.ts'
import { memoryStore } from '../../src/store/memory.ts'
import { retryStore } from '../../src/store/retry.ts'
import { openS3Store } from '../../src/store/s3.ts'
import { objectStoreContract } from '../contract/object-store.ts'
import { type Minio, startMinio, withCredentials } from '../servers/minio.ts'

objectStoreContract('a memory store', async () => memoryStore())
objectStoreContract('a memory store like S3', async () => memoryStore({ like: 's3' }))
objectStoreContract('retry', async () => retryStore(memoryStore()))
objectStoreContract('fault, without a fault', async () => faultStore(memoryStore(), { plan: () => undefined }))

describe('directory', () => {
  let folder = ''
  let count = 0
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'thaw-store-'))
  })
  afterAll(() => rm(folder, { recursive: true, force: true }))
  objectStoreContract('a directory store', async () => openDirectoryStore(join(folder, String(count++), 'deep', 'store')))
})

describe('S3', () => {
  let minio: Minio
  let bucket = ''
  let count = 0
  beforeAll(async () => {
    minio = await startMinio()
    bucket = await minio.createBucket()
  }, 60_000)
  afterAll(() => minio.stop())
  objectStoreContract('an S3 store on MinIO', () =>
    withCredentials(minio.credentials, async () => {
      const store = await openS3Store(`s3://${bucket}/p${count++}?endpoint=${minio.endpoint}`)
      // The default chain looks at the environment at the first call.
      await store.head('first')
      return store
    }),
  )
})
