/**
 * The credentials of an S3 store as they are now: what the AWS default chain finds (environment, shared
 * files, web identity, container and instance metadata), and what it finds later.
 *
 * The SDK's own provider keeps what does not expire for good, and the text of shared files too, so keys
 * that were replaced never came into use. Here the chain is made and evaluated anew
 *  - when a server refuses a request, whatever it says of it: one look before that is an error. If
 *    it refused the credentials and none are found, that may pass: UNAVAILABLE;
 *  - five minutes before credentials expire, in the background, while the old ones still serve.
 * Looks are shared by all who wait for one, and at least a second apart.
 */
import { ThawError } from '../errors.ts'
import type { Clock } from '../util/clock.ts'
import { Deadline } from '../util/deadline.ts'
import { areCredentialsRefused, isRefusal } from './s3-errors.ts'

/** As the SDK has it. */
export interface Identity {
  readonly accessKeyId: string
  readonly secretAccessKey: string
  readonly sessionToken?: string
  readonly expiration?: Date
}

/** A metadata service that does not answer must not hold up all who come later. */
const LOOK_TIMEOUT_MS = 10_000
const LOOK_EVERY_MS = 1_000
const EXPIRES_SOON_MS = 300_000
/** Between looks at credentials that expire soon. */
const REFRESH_EVERY_MS = 30_000

export class S3Credentials {
  readonly #evaluate: () => Promise<Identity>
  readonly #clock: Clock
  #current: Identity | undefined
  /** The look under way. */
  #look: Promise<Identity> | undefined
  /** One that has not begun. */
  #nextLook: Promise<Identity> | undefined
  #lookedMs = -Infinity

  /** `evaluate` makes a new chain and asks it. */
  constructor(evaluate: () => Promise<Identity>, clock: Clock) {
    this.#evaluate = evaluate
    this.#clock = clock
  }

  /**
   * What to sign with.
   * @throws what the chain says if it has found nothing yet; UNAVAILABLE if it finds nothing any more, or broke
   */
  async get(): Promise<Identity> {
    const current = this.#current
    if (current === undefined) return await this.#anyLook()
    const leftMs = current.expiration === undefined ? Infinity : current.expiration.getTime() - Date.now()
    if (leftMs > EXPIRES_SOON_MS) return current
    if (leftMs > 0) {
      if (this.#clock.now() - this.#lookedMs >= REFRESH_EVERY_MS) this.#anyLook().catch(() => undefined)
      return current
    }
    try {
      return await this.#anyLook()
    } catch (cause) {
      throw new ThawError('UNAVAILABLE', 'the AWS credentials have expired, and new ones cannot be had', { cause })
    }
  }

  /** Makes a call that is signed with these credentials; once more if it was refused and they were replaced. */
  async use<T>(call: () => Promise<T>): Promise<T> {
    for (let looked = false; ; ) {
      const used = await this.get()
      try {
        return await call()
      } catch (error) {
        if (looked || !isRefusal(error)) throw error
        if (!areEqual(used, this.#current)) continue
        looked = true
        const found = await this.#laterLook().catch((cause: unknown) => {
          if (!areCredentialsRefused(error)) throw error
          // They may be about to be replaced: a file that is being written, a service that starts anew.
          throw new ThawError('UNAVAILABLE', 'the AWS credentials are refused, and new ones cannot be had', { cause })
        })
        if (areEqual(used, found)) throw error
      }
    }
  }

  #anyLook(): Promise<Identity> {
    return this.#look ?? this.#laterLook()
  }

  /** One that begins after this call: an earlier one may have seen what was refused. */
  #laterLook(): Promise<Identity> {
    this.#nextLook ??= this.#begin()
    return this.#nextLook
  }

  async #begin(): Promise<Identity> {
    await this.#clock.sleep(Math.max(0, this.#lookedMs + LOOK_EVERY_MS - this.#clock.now()))
    const look = this.#nextLook
    this.#look = look
    this.#nextLook = undefined
    this.#lookedMs = this.#clock.now()
    try {
      this.#current = await this.#evaluateInTime()
      return this.#current
    } finally {
      if (this.#look === look) this.#look = undefined
    }
  }

  async #evaluateInTime(): Promise<Identity> {
    const late = (): ThawError => new ThawError('UNAVAILABLE', `the AWS credential chain did not answer within ${LOOK_TIMEOUT_MS} ms`)
    using deadline = new Deadline(LOOK_TIMEOUT_MS, late, { clock: this.#clock })
    try {
      return await deadline.race(this.#evaluate())
    } catch (error) {
      if (!(error instanceof Error) || error instanceof ThawError || error.name === 'CredentialsProviderError') throw error
      // By its name alone: what cannot be parsed is quoted in the message, and it holds the secret.
      throw new ThawError('UNAVAILABLE', `the AWS credential chain failed: ${error.name}`)
    }
  }
}

function areEqual(a: Identity, b: Identity | undefined): boolean {
  return a.accessKeyId === b?.accessKeyId && a.secretAccessKey === b.secretAccessKey && a.sessionToken === b.sessionToken
}
