/**
 * From the URL a user gives to an open store. A store across the network comes wrapped in retry; a directory does not: what fails there does not
 * get better within seconds.
 */
import { fileURLToPath } from 'node:url'
import type { ObjectStore } from '../store.ts'
import { openDirectoryStore } from './directory.ts'
import { type RetryOptions, retryStore } from './retry.ts'
import type { S3StoreOptions } from './s3.ts'

export interface OpenObjectStoreOptions {
  readonly s3?: S3StoreOptions | undefined
  readonly retry?: RetryOptions | undefined
}

/**
 * Opens `file:///path`, a plain path, or `s3://bucket/prefix?endpoint=…&region=…`; reads and writes nothing yet. A path with a `:` in its first segment is
 * written `./a:b`. TypeError for anything else.
 */
export async function openObjectStore(url: string, options: OpenObjectStoreOptions = {}): Promise<ObjectStore> {
  const scheme = /^([A-Za-z][A-Za-z0-9+.-]*):/.exec(url)?.[1]?.toLowerCase()
  if (url === '') throw new TypeError('a store needs a URL: file:///path, a path, or s3://bucket/prefix')
  if (scheme === undefined) return openDirectoryStore(url)
  if (scheme === 'file') return openDirectoryStore(pathOf(url))
  if (scheme !== 's3') throw new TypeError(`unknown kind of store (supported: file:///path, a path, s3://bucket/prefix)`)
  const { openS3Store } = await import('./s3.ts')
  return retryStore(await openS3Store(url, options.s3), options.retry)
}

function pathOf(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (url === undefined || url.search !== '' || url.hash !== '' || !/^file:\/\//i.test(text)) {
    throw new TypeError('a directory store is file:///absolute/path, without a query')
  }
  return fileURLToPath(url)
}
