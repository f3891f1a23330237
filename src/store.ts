/**
 * The contract of an object store: the authoritative place of sealed chunks, manifests and documents. Implementations lie in `store/`:
 * directory, s3, memory; and wrappers of the same shape: retry, fault.
 *
 * A store sees keys (docs/FORMAT.md section 2) and opaque bytes. It imports neither seal nor manifest: what it holds is ciphertext, and that
 * boundary is an import rule (test/tidy.test.ts).
 *
 * Every method rejects with a ThawError or with `signal.reason`, in bounded time. UNAVAILABLE means that the same call may succeed later.
 */

export interface CallOptions {
  readonly signal?: AbortSignal | undefined
}

export interface GetOptions extends CallOptions {
  /** Largest object accepted, in bytes: a larger one is BAD_FORMAT, and is not read. */
  readonly sizeMax: number
}

export interface PutOptions extends CallOptions {
  /** SHA-256 of the body, if the caller has it: an implementation that can has the other side check it. */
  readonly sha256?: Uint8Array | undefined
}

export interface ObjectHead {
  readonly sizeBytes: number
  /** SHA-256 of the whole object as the store itself vouches for it; undefined if it does not. */
  readonly sha256: Uint8Array | undefined
}

export interface ListedObject {
  readonly key: string
  readonly sizeBytes: number
}

export interface ObjectStore extends AsyncDisposable {
  /** Names the store in messages, without credentials. */
  readonly url: string

  /** Whether `head` can only tell that an object of that length is there (directory), or also which bytes it has (S3). */
  readonly headGivesSha256: boolean

  /** How many calls at a time serve this store best; callers that move many objects keep about that many under way. */
  readonly concurrency: number

  /** The whole object, in a buffer that is the caller's. NOT_FOUND if there is none. */
  get(key: string, options: GetOptions): Promise<Uint8Array>

  /**
   * Reads the whole object into `target` from its start, and returns its length in bytes. An object longer than `target` is BAD_FORMAT. The implementation
   * may have written anything to `target` when it rejects, and never touches it after it settled.
   */
  getInto(key: string, target: Uint8Array, options?: CallOptions): Promise<number>

  /** What is known of an object without reading it, or undefined if there is none. */
  head(key: string, options?: CallOptions): Promise<ObjectHead | undefined>

  /**
   * Writes or replaces an object. MUST be atomic: readers see the old object, the new one, or none, never a part. It is visible and durable after
   * the next `sync()` at the latest, and may not be before. `body` may be reused as soon as the promise settles.
   */
  put(key: string, body: Uint8Array, options?: PutOptions): Promise<void>

  /**
   * Writes an object if there is none under that key, atomically against all other writers, and durably. True: the object is there with these
   * bytes (written now, or earlier: an attempt whose answer was lost counts). False: there is another one, untouched.
   */
  putIfAbsent(key: string, body: Uint8Array, options?: CallOptions): Promise<boolean>

  /** Removes an object; nothing to remove is no error. */
  delete(key: string, options?: CallOptions): Promise<void>

  /** Objects whose keys start with `prefix`, in ascending order of their UTF-8 keys, while others may write: what is there throughout is listed. */
  list(prefix: string, options?: CallOptions): AsyncIterable<ListedObject>

  /** Names of the "folders" directly below `prefix` (which ends in `/` or is empty): `a` for keys that start with `<prefix>a/`. Ascending. */
  listFolders(prefix: string, options?: CallOptions): AsyncIterable<string>

  /**
   * Makes every `put` that settled before this call visible and durable, and every object that a `head` found. One wait for many objects, because a wait an
   * object would cost more than all else.
   */
  sync(options?: CallOptions): Promise<void>

  /** Ends all use; idempotent. Calls under way and later ones reject with CLOSED. Does not sync. */
  close(): Promise<void>
}
