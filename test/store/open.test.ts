import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { describe, expect, it } from 'vitest'
import { openObjectStore } from '../../src/store/open.ts'
import { parseS3Url } from '../../src/store/s3-url.ts'

describe('the URL of a store', () => {
  it.each([
    ['file:///var/lib/thaw', '/var/lib/thaw'],
    ['FILE:///var/lib/with%20space', '/var/lib/with space'],
    ['/var/lib/thaw/', '/var/lib/thaw'],
    [pathToFileURL(join(tmpdir(), 'ä?#')).href, join(tmpdir(), 'ä?#')],
  ])('%s is a directory', async (url, path) => {
    await using store = await openObjectStore(url)
    expect(store.url).toBe(path)
    expect(store.headGivesSha256).toBe(false)
  })

  it('s3:// is S3, and shows neither more nor less than where it is', async () => {
    await using store = await openObjectStore('s3://bucket/a/b/?endpoint=http://127.0.0.1:9&region=eu-central-1')
    expect(store.url).toBe('s3://bucket/a/b?endpoint=http://127.0.0.1:9&region=eu-central-1')
    expect(store.headGivesSha256).toBe(true)
  })

  it.each(['', 'gs://bucket', 'http://host/x', 'C:\\x', 'file:x', 'file://host/x', 'file:///x?y', 's3://', 's3:bucket', 's3://ab/x'])(
    '%j is a TypeError',
    async url => {
      await expect(openObjectStore(url)).rejects.toThrow(TypeError)
    },
  )

  it.each([
    's3://key:hidden@bucket/x',
    's3://bucket?endpoint=http://key:hidden@host',
    's3://bucket?secret=hidden',
    's3://bucket?hidden',
    's3://bucket?endpoint=hidden',
    's3://bucket?pathStyle=hidden',
    's3://bucket/a//hidden',
  ])('%s is refused without repeating it', url => {
    expect(() => parseS3Url(url)).toThrow(TypeError)
    expect(() => parseS3Url(url)).not.toThrow(/hidden/)
  })

  it('takes path style from the endpoint, unless it says otherwise', () => {
    expect(parseS3Url('s3://bucket')).toMatchObject({
      bucket: 'bucket',
      prefix: '',
      pathStyle: false,
      endpoint: undefined,
      region: undefined,
    })
    expect(parseS3Url('s3://bucket/p?endpoint=https://host/')).toMatchObject({ prefix: 'p/', pathStyle: true, endpoint: 'https://host' })
    expect(parseS3Url('s3://bucket?endpoint=https://host&pathStyle=false').pathStyle).toBe(false)
    expect(parseS3Url('s3://bucket?region=eu-west-1&pathStyle=true')).toMatchObject({ region: 'eu-west-1', pathStyle: true })
  })
})
