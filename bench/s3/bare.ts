/**
 * The bare S3 client at its best: the same objects as thaw moves, bodies ready in memory, checksums known beforehand, gets into buffers that are there. It is the
 * limit that the S3 store is measured against, so it shares no code with it.
 */
import { hash } from 'node:crypto'
import { Agent } from 'node:http'
import type { Readable } from 'node:stream'
import {
  DeleteObjectsCommand,
  GetObjectCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
  type S3ClientConfig,
} from '@aws-sdk/client-s3'
import { NodeHttpHandler } from '@smithy/node-http-handler'

/** An object as it is uploaded. */
export interface StoredObject {
  readonly key: string
  readonly body: Buffer
  /** SHA-256 in base64. */
  readonly checksum: string
}

export interface Bucket {
  readonly endpoint: string
  readonly credentials: NonNullable<S3ClientConfig['credentials']>
  readonly name: string
}

/** Runs `work` with a client that keeps up to `concurrency` connections. */
export async function withClient<T>(bucket: Bucket, concurrency: number, work: (client: S3Client) => Promise<T>): Promise<T> {
  const client = new S3Client({
    endpoint: bucket.endpoint,
    credentials: bucket.credentials,
    region: 'us-east-1',
    forcePathStyle: true,
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    requestHandler: new NodeHttpHandler({ httpAgent: new Agent({ keepAlive: true, maxSockets: concurrency }) }),
  })
  try {
    return await work(client)
  } finally {
    client.destroy()
  }
}

/** Everything below a prefix, with its bytes. */
export async function readAll(bucket: Bucket, prefix: string): Promise<StoredObject[]> {
  return await withClient(bucket, 1, async client => {
    const objects: StoredObject[] = []
    for (const { key, sizeBytes } of await list(client, bucket, prefix)) {
      const body = Buffer.alloc(sizeBytes)
      await getInto(client, bucket, key, body)
      objects.push({ key: key.slice(prefix.length), body, checksum: hash('sha256', body, 'base64') })
    }
    return objects
  })
}

/** Uploads all objects below a prefix, `concurrency` at a time. */
export async function putAll(bucket: Bucket, prefix: string, objects: readonly StoredObject[], concurrency: number): Promise<void> {
  await withClient(bucket, concurrency, client =>
    atOnce(concurrency, objects, async ({ key, body, checksum }) => {
      await client.send(new PutObjectCommand({ Bucket: bucket.name, Key: prefix + key, Body: body, ChecksumSHA256: checksum }))
    }),
  )
}

/** Downloads all objects below a prefix, each into one of `concurrency` buffers made before. Returns the bytes that came. */
export async function getAll(
  bucket: Bucket,
  prefix: string,
  objects: readonly StoredObject[],
  buffers: readonly Buffer[],
): Promise<number> {
  let bytes = 0
  await withClient(bucket, buffers.length, client =>
    atOnce(buffers.length, objects, async ({ key }, slot) => {
      const length = await getInto(client, bucket, prefix + key, buffers[slot]!)
      bytes += length
    }),
  )
  return bytes
}

/** Deletes everything below a prefix. */
export async function deleteAll(bucket: Bucket, prefix: string): Promise<void> {
  await withClient(bucket, 1, async client => {
    const keys = (await list(client, bucket, prefix)).map(({ key }) => key)
    for (let at = 0; at < keys.length; at += 1000) {
      const Objects = keys.slice(at, at + 1000).map(Key => ({ Key }))
      await client.send(new DeleteObjectsCommand({ Bucket: bucket.name, Delete: { Objects, Quiet: true } }))
    }
  })
}

async function list(client: S3Client, bucket: Bucket, prefix: string): Promise<{ readonly key: string; readonly sizeBytes: number }[]> {
  const found: { key: string; sizeBytes: number }[] = []
  for (let token: string | undefined; ; ) {
    const page = await client.send(new ListObjectsV2Command({ Bucket: bucket.name, Prefix: prefix, ContinuationToken: token }))
    for (const { Key = '', Size = 0 } of page.Contents ?? []) found.push({ key: Key, sizeBytes: Size })
    token = page.NextContinuationToken
    if (token === undefined) return found
  }
}

async function getInto(client: S3Client, bucket: Bucket, key: string, target: Buffer): Promise<number> {
  const { Body } = await client.send(new GetObjectCommand({ Bucket: bucket.name, Key: key }))
  const body = Body as Readable
  let bytes = 0
  body.on('data', (piece: Buffer) => {
    bytes += piece.copy(target, bytes)
  })
  await new Promise((resolve, reject) => body.once('end', resolve).once('error', reject))
  return bytes
}

/** Each of `concurrency` slots takes the next item when it is done with its last. */
async function atOnce<T>(concurrency: number, items: readonly T[], work: (item: T, slot: number) => Promise<void>): Promise<void> {
  let next = 0
  const slot = async (_: unknown, index: number): Promise<void> => {
    while (next < items.length) await work(items[next++]!, index)
  }
  await Promise.all(Array.from({ length: concurrency }, slot))
}
