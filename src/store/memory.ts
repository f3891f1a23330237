/**
 * An object store in memory, for tests. It copies on the way in and out, and is as strict as a caller's worst case: like a directory, a `put` is
 * invisible until `sync()`, and `head` tells a length only; or like S3, where it is visible at once and `head` tells the SHA-256.
 */
import { hash } from 'node:crypto'
import { ThawError } from '../errors.ts'
import type { CallOptions, GetOptions, ListedObject, ObjectHead, ObjectStore, PutOptions } from '../store.ts'
import { Lifetime } from '../util/lifetime.ts'
import { checkFolderPrefix, checkKey, checkPrefix, compareKeys } from './object-key.ts'

export interface MemoryStoreOptions {
  /** Which of the two kinds of store to behave as. Default: directory. */
  readonly like?: 'directory' | 's3' | undefined
}

/** An empty store that lives as long as the object. */
export function memoryStore(options: MemoryStoreOptions = {}): ObjectStore {
  return new MemoryStore(options.like ?? 'directory')
}

class MemoryStore implements ObjectStore {
  readonly url = 'memory:'
  readonly headGivesSha256: boolean
  readonly concurrency = 16
  readonly #objects = new Map<string, Uint8Array>()
  readonly #staged = new Map<string, Uint8Array>()
  readonly #life = new Lifetime(this.url)

  constructor(like: 'directory' | 's3') {
    this.headGivesSha256 = like === 's3'
  }

  async get(key: string, options: GetOptions): Promise<Uint8Array> {
    return Uint8Array.from(this.#read(key, options.sizeMax, options))
  }

  async getInto(key: string, target: Uint8Array, options: CallOptions = {}): Promise<number> {
    const body = this.#read(key, target.length, options)
    target.set(body)
    return body.length
  }

  async head(key: string, { signal }: CallOptions = {}): Promise<ObjectHead | undefined> {
    this.#enter(key, signal)
    const body = this.#objects.get(key)
    if (body === undefined) return undefined
    return { sizeBytes: body.length, sha256: this.headGivesSha256 ? hash('sha256', body, 'buffer') : undefined }
  }

  async put(key: string, body: Uint8Array, { sha256, signal }: PutOptions = {}): Promise<void> {
    this.#enter(key, signal)
    if (this.headGivesSha256 && sha256 !== undefined && !hash('sha256', body, 'buffer').equals(sha256)) {
      throw new ThawError('CORRUPT', `body does not have the SHA-256 given: ${key}`, { object: key, tier: 'origin' })
    }
    const objects = this.headGivesSha256 ? this.#objects : this.#staged
    objects.set(key, Uint8Array.from(body))
  }

  async putIfAbsent(key: string, body: Uint8Array, { signal }: CallOptions = {}): Promise<boolean> {
    this.#enter(key, signal)
    const there = this.#staged.get(key) ?? this.#objects.get(key)
    if (there !== undefined) return Buffer.compare(there, body) === 0
    this.#objects.set(key, Uint8Array.from(body))
    return true
  }

  async delete(key: string, { signal }: CallOptions = {}): Promise<void> {
    this.#enter(key, signal)
    this.#staged.delete(key)
    this.#objects.delete(key)
  }

  async *list(prefix: string, { signal }: CallOptions = {}): AsyncGenerator<ListedObject> {
    checkPrefix(prefix)
    this.#life.check(signal)
    for (const key of this.#keys(prefix)) {
      const body = this.#objects.get(key)
      if (body !== undefined) yield { key, sizeBytes: body.length }
      this.#life.check(signal)
    }
  }

  async *listFolders(prefix: string, { signal }: CallOptions = {}): AsyncGenerator<string> {
    checkFolderPrefix(prefix)
    this.#life.check(signal)
    let last: string | undefined
    for (const key of this.#keys(prefix)) {
      const end = key.indexOf('/', prefix.length)
      const name = key.slice(prefix.length, end)
      if (end < 0 || name === last) continue
      yield name
      last = name
      this.#life.check(signal)
    }
  }

  async sync({ signal }: CallOptions = {}): Promise<void> {
    this.#life.check(signal)
    for (const [key, body] of this.#staged) this.#objects.set(key, body)
    this.#staged.clear()
  }

  close(): Promise<void> {
    return this.#life.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #enter(key: string, signal: AbortSignal | undefined): void {
    checkKey(key)
    this.#life.check(signal)
  }

  #read(key: string, sizeMax: number, { signal }: CallOptions): Uint8Array {
    this.#enter(key, signal)
    const body = this.#objects.get(key)
    if (body === undefined) throw new ThawError('NOT_FOUND', `no such object: ${key}`, { object: key })
    if (body.length > sizeMax) throw new ThawError('BAD_FORMAT', `object is larger than ${sizeMax} bytes: ${key}`, { object: key })
    return body
  }

  #keys(prefix: string): string[] {
    return [...this.#objects.keys()].filter(key => key.startsWith(prefix)).sort(compareKeys)
  }
}
