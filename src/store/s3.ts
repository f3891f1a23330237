/**
 * An object store on S3 or a provider that speaks it: one object, one PUT (no multipart), under `<prefix><key>`.
 *
 * - Uploads carry their SHA-256, so the provider refuses a damaged one (CORRUPT), and `head` gives it back.
 * - Put-if-absent is `If-None-Match: *`. A provider that ignores that header loses updates silently: `requireConditionalPut` (check.ts) finds it out.
 * - Every call has one deadline over connecting, headers and body, which grows with the largest size it may move: TIMEOUT. What the network
 *   does is UNAVAILABLE; waiting and trying again is the retry wrapper's job, except for the 409 that only a conditional PUT gets.
 *
 * It trusts a listing as it comes; S3 and MinIO list what was written at once and in order, and `checkStore` tests that.
 */
import { hash } from 'node:crypto'
import type { PutObjectCommandInput } from '@aws-sdk/client-s3'
import { isThawError, ThawError } from '../errors.ts'
import type { CallOptions, GetOptions, ListedObject, ObjectHead, ObjectStore, PutOptions } from '../store.ts'
import { type Clock, systemClock } from '../util/clock.ts'
import { Deadline } from '../util/deadline.ts'
import { Lifetime } from '../util/lifetime.ts'
import { checkFolderPrefix, checkKey, checkPrefix, isKey } from './object-key.ts'
import { readBody } from './s3-body.ts'
import { connectS3, type S3Connection } from './s3-client.ts'
import { fromS3, statusOf } from './s3-errors.ts'
import { parseS3Url, type S3Location } from './s3-url.ts'

/** bench/s3.ts on MinIO over loopback: 16 to 64 at a time are level, for gets and puts; 8 are slower. A farther store gains from more than 16. */
const CONCURRENCY = 32
const CONNECT_TIMEOUT_MS = 5_000
const IDLE_TIMEOUT_MS = 15_000
const TIMEOUT_MS = 30_000
/** Slowest transfer that is waited for. */
const BYTES_PER_SECOND_MIN = 2 ** 20
/** Conditional PUTs that meet another one in flight (409) are tried so often, with a random wait of up to this before each. */
const CONDITIONAL_ATTEMPTS_MAX = 8
const CONDITIONAL_WAIT_MS = 200

export interface S3StoreOptions {
  /** Deadline of a call that moves no bytes; default 30 s. */
  readonly timeoutMs?: number | undefined
  /** The deadline grows by the time that the bytes a call may move take at this rate; default 1 MiB/s. */
  readonly bytesPerSecondMin?: number | undefined
  /** A connection must be there after so long; default 5 s. */
  readonly connectTimeoutMs?: number | undefined
  /** A connection must move something within so long; default 15 s. */
  readonly idleTimeoutMs?: number | undefined
  readonly clock?: Clock | undefined
}

/** Opens `s3://bucket/prefix?…` (s3-url.ts); no request yet. Credentials are what the AWS default chain finds, and finds later. TypeError for a bad URL. */
export async function openS3Store(url: string, options: S3StoreOptions = {}): Promise<ObjectStore> {
  const location = parseS3Url(url)
  const timeouts = { connectMs: options.connectTimeoutMs ?? CONNECT_TIMEOUT_MS, idleMs: options.idleTimeoutMs ?? IDLE_TIMEOUT_MS }
  const connection = await connectS3(location, CONCURRENCY, timeouts, options.clock ?? systemClock)
  return new S3Store(location, connection, options)
}

class S3Store implements ObjectStore {
  readonly url: string
  readonly headGivesSha256 = true
  readonly concurrency = CONCURRENCY
  readonly #location: S3Location
  readonly #sdk: S3Connection['sdk']
  readonly #client: S3Connection['client']
  readonly #credentials: S3Connection['credentials']
  readonly #timeoutMs: number
  readonly #bytesPerSecondMin: number
  readonly #clock: Clock
  readonly #life: Lifetime

  constructor(location: S3Location, { sdk, client, credentials }: S3Connection, options: S3StoreOptions) {
    this.url = location.url
    this.#location = location
    this.#sdk = sdk
    this.#client = client
    this.#credentials = credentials
    this.#timeoutMs = options.timeoutMs ?? TIMEOUT_MS
    this.#bytesPerSecondMin = options.bytesPerSecondMin ?? BYTES_PER_SECOND_MIN
    this.#clock = options.clock ?? systemClock
    this.#life = new Lifetime(location.url)
  }

  async get(key: string, { sizeMax, signal }: GetOptions): Promise<Uint8Array> {
    let body: Uint8Array = Buffer.alloc(0)
    await this.#read(key, sizeMax, signal, length => {
      body = Buffer.allocUnsafeSlow(length)
      return body
    })
    return body
  }

  getInto(key: string, target: Uint8Array, { signal }: CallOptions = {}): Promise<number> {
    return this.#read(key, target.length, signal, () => target)
  }

  head(key: string, { signal }: CallOptions = {}): Promise<ObjectHead | undefined> {
    return this.#call('look at', key, 0, signal, async abortSignal => {
      try {
        const command = new this.#sdk.HeadObjectCommand({ ...this.#object(key), ChecksumMode: 'ENABLED' })
        const answer = await this.#client.send(command, { abortSignal })
        return { sizeBytes: answer.ContentLength ?? 0, sha256: wholeSha256(answer) }
      } catch (error) {
        if (statusOf(error) === 404) return undefined
        throw error
      }
    })
  }

  async put(key: string, body: Uint8Array, { sha256, signal }: PutOptions = {}): Promise<void> {
    await this.#call('write', key, body.length, signal, abortSignal =>
      this.#put(key, body, sha256 ?? hash('sha256', body, 'buffer'), {}, abortSignal),
    )
  }

  async putIfAbsent(key: string, body: Uint8Array, { signal }: CallOptions = {}): Promise<boolean> {
    const sha256 = hash('sha256', body, 'buffer')
    for (let attempt = 1; ; attempt++) {
      try {
        await this.#call('write', key, body.length, signal, abortSignal => this.#put(key, body, sha256, { IfNoneMatch: '*' }, abortSignal))
        return true
      } catch (error) {
        if (!isThawError(error, 'CONFLICT')) throw error
        if (statusOf(error.cause) === 412) {
          const equal = await this.#holds(key, body, signal)
          if (equal !== undefined) return equal
        }
        if (attempt === CONDITIONAL_ATTEMPTS_MAX) throw error
      }
      await this.#clock.sleep(this.#clock.random() * CONDITIONAL_WAIT_MS, signal)
    }
  }

  async delete(key: string, { signal }: CallOptions = {}): Promise<void> {
    await this.#call('delete', key, 0, signal, abortSignal =>
      this.#client.send(new this.#sdk.DeleteObjectCommand(this.#object(key)), { abortSignal }),
    )
  }

  async *list(prefix: string, { signal }: CallOptions = {}): AsyncGenerator<ListedObject> {
    checkPrefix(prefix)
    for await (const page of this.#pages(prefix, undefined, signal)) {
      for (const { Key, Size } of page.Contents ?? []) {
        const key = Key?.slice(this.#location.prefix.length) ?? ''
        if (isKey(key)) yield { key, sizeBytes: Size ?? 0 }
        this.#life.check(signal)
      }
    }
  }

  async *listFolders(prefix: string, { signal }: CallOptions = {}): AsyncGenerator<string> {
    checkFolderPrefix(prefix)
    for await (const page of this.#pages(prefix, '/', signal)) {
      for (const { Prefix } of page.CommonPrefixes ?? []) {
        const folder = Prefix?.slice(this.#location.prefix.length, -1) ?? ''
        if (isKey(folder)) yield folder.slice(prefix.length)
        this.#life.check(signal)
      }
    }
  }

  async sync({ signal }: CallOptions = {}): Promise<void> {
    this.#life.check(signal)
  }

  async close(): Promise<void> {
    await this.#life.close()
    this.#client.destroy()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #read(key: string, sizeMax: number, signal: AbortSignal | undefined, allocate: (length: number) => Uint8Array): Promise<number> {
    return this.#call('read', key, sizeMax, signal, async abortSignal => {
      const answer = await this.#client.send(new this.#sdk.GetObjectCommand(this.#object(key)), { abortSignal })
      const bounded = (length: number): Uint8Array => {
        if (length > sizeMax) throw new ThawError('BAD_FORMAT', `object is larger than ${sizeMax} bytes: ${key}`, { object: key })
        return allocate(length)
      }
      return readBody(answer, key, bounded, abortSignal)
    })
  }

  async #put(
    key: string,
    body: Uint8Array,
    sha256: Uint8Array,
    condition: Pick<PutObjectCommandInput, 'IfNoneMatch'>,
    abortSignal: AbortSignal,
  ): Promise<void> {
    const ChecksumSHA256 = Buffer.from(sha256).toString('base64')
    const command = new this.#sdk.PutObjectCommand({ ...this.#object(key), ...condition, Body: body, ChecksumSHA256 })
    command.middlewareStack.add(signedHash(Buffer.from(sha256).toString('hex')), { step: 'build', name: 'signedHash' })
    const { ETag } = await this.#client.send(command, { abortSignal })
    if (ETag === undefined) throw notS3(`cannot write object: ${key} in ${this.url}`, key)
  }

  /** Whether an object has exactly these bytes; undefined if it is gone. */
  async #holds(key: string, body: Uint8Array, signal: AbortSignal | undefined): Promise<boolean | undefined> {
    try {
      return Buffer.compare(await this.get(key, { sizeMax: body.length, signal }), body) === 0
    } catch (error) {
      if (isThawError(error, 'BAD_FORMAT')) return false
      if (isThawError(error, 'NOT_FOUND')) return undefined
      throw error
    }
  }

  async *#pages(prefix: string, delimiter: '/' | undefined, signal: AbortSignal | undefined) {
    const input = {
      Bucket: this.#location.bucket,
      Prefix: this.#location.prefix + prefix,
      ...(delimiter !== undefined && { Delimiter: delimiter }),
    }
    let token: string | undefined
    do {
      const command = new this.#sdk.ListObjectsV2Command({ ...input, ...(token !== undefined && { ContinuationToken: token }) })
      const page = await this.#guard({ what: 'cannot list objects', key: prefix }, 0, signal, abortSignal =>
        this.#client.send(command, { abortSignal }),
      )
      if (page.Name === undefined && page.IsTruncated === undefined) throw notS3(`cannot list objects: ${prefix} in ${this.url}`, prefix)
      yield page
      token = page.NextContinuationToken
    } while (token !== undefined)
  }

  async #call<T>(
    what: string,
    key: string,
    bytes: number,
    signal: AbortSignal | undefined,
    call: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    checkKey(key)
    return this.#guard({ what: `cannot ${what} object`, key }, bytes, signal, call)
  }

  /** Runs one call under its deadline, and turns what it throws into what the contract says. */
  #guard<T>(
    about: { readonly what: string; readonly key: string },
    bytes: number,
    signal: AbortSignal | undefined,
    call: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    return this.#life.run(signal, async () => {
      const timeoutMs = this.#timeoutMs + Math.ceil((bytes / this.#bytesPerSecondMin) * 1000)
      const timeout = (): ThawError =>
        new ThawError('TIMEOUT', `${about.what} within ${timeoutMs} ms: ${about.key} in ${this.url}`, { object: about.key })
      using deadline = new Deadline(timeoutMs, timeout, { clock: this.#clock, signals: [signal, this.#life.signal] })
      try {
        return await deadline.race(this.#credentials.use(() => call(deadline.signal)))
      } catch (error) {
        deadline.signal.throwIfAborted()
        throw fromS3(error, { ...about, bucket: this.#location.bucket, url: this.url })
      }
    })
  }

  #object(key: string): { Bucket: string; Key: string } {
    return { Bucket: this.#location.bucket, Key: this.#location.prefix + key }
  }
}

/**
 * What stands in front of a store, a proxy or a login page, can say 200 too: for a listing that would
 * be an empty store, for a PUT an object that is not there.
 */
function notS3(what: string, object: string): ThawError {
  return new ThawError('UNAVAILABLE', `${what}: what answered is no S3 store`, { object })
}

/** Lets the signer take the SHA-256 that is known, where it would compute it a second time (90 µs for 160 KB). */
function signedHash(hex: string) {
  return <Args extends { request: unknown }, Output>(next: (args: Args) => Output) =>
    (args: Args): Output => {
      const { request } = args
      if (typeof request === 'object' && request !== null && 'headers' in request)
        Object.assign(request.headers as object, { 'x-amz-content-sha256': hex })
      return next(args)
    }
}

/** The SHA-256 of the whole object. One of a multipart upload is a hash of hashes, marked by its type or by a `-<parts>` behind it. */
function wholeSha256(head: { ChecksumSHA256?: string | undefined; ChecksumType?: string | undefined }): Uint8Array | undefined {
  const { ChecksumSHA256: text, ChecksumType: type } = head
  if (text === undefined || text.includes('-') || (type !== undefined && type !== 'FULL_OBJECT')) return undefined
  const sha256 = Buffer.from(text, 'base64')
  return sha256.length === 32 ? sha256 : undefined
}
