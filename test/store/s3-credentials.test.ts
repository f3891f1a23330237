import { describe, expect, it } from 'vitest'
import { type Identity, S3Credentials } from '../../src/store/s3-credentials.ts'
import { VirtualClock } from '../../src/util/virtual-clock.ts'

const OLD: Identity = { accessKeyId: 'old', secretAccessKey: 'old' }
const NEW: Identity = { accessKeyId: 'old', secretAccessKey: 'new' }

function refused(status = 403, name = 'SignatureDoesNotMatch'): Error {
  return Object.assign(new Error('no'), { name, $metadata: { httpStatusCode: status } })
}

/** A chain that finds what a test puts there, and a server that takes what a test says. */
class Scene {
  readonly clock = new VirtualClock()
  found: Identity | Error | undefined = OLD
  accepted: Identity = OLD
  refusal = refused()
  looks = 0
  calls = 0
  readonly credentials = new S3Credentials(() => this.#evaluate(), this.clock)

  /** One call to its end, while time moves on. */
  async call(): Promise<unknown> {
    return (await this.callAtOnce(1))[0]
  }

  async callAtOnce(count: number): Promise<unknown[]> {
    const outcomes = Array.from({ length: count }, () => this.credentials.use(() => this.#send()).catch((error: unknown) => error))
    await this.clock.advance(5_000)
    return await Promise.all(outcomes)
  }

  async #send(): Promise<string> {
    this.calls++
    const { secretAccessKey } = await this.credentials.get()
    if (secretAccessKey !== this.accepted.secretAccessKey) throw this.refusal
    return 'done'
  }

  #evaluate(): Promise<Identity> {
    this.looks++
    const { found } = this
    if (found === undefined) return new Promise(() => undefined)
    return found instanceof Error ? Promise.reject(found) : Promise.resolve(found)
  }
}

describe('credentials of an S3 store', () => {
  it('are looked up once', async () => {
    const scene = new Scene()
    expect(await scene.callAtOnce(20)).toEqual(Array(20).fill('done'))
    expect(await scene.call()).toBe('done')
    expect(scene.looks).toBe(1)
  })

  it.each([
    [403, 'SignatureDoesNotMatch'],
    [403, 'InvalidAccessKeyId'],
    [403, 'AccessDenied'],
    [400, 'ExpiredToken'],
    // As an answer to a HEAD has it.
    [400, 'UnknownError'],
    [403, '403'],
  ])('that were replaced come into use when a server says %i %s', async (status, name) => {
    const scene = new Scene()
    await scene.call()
    scene.found = NEW
    scene.accepted = NEW
    scene.refusal = refused(status, name)
    expect(await scene.callAtOnce(20)).toEqual(Array(20).fill('done'))
    expect(scene.looks).toBe(2)
  })

  it('that were not replaced are looked up once before the refusal is an error', async () => {
    const scene = new Scene()
    await scene.call()
    scene.accepted = NEW
    expect(await scene.call()).toBe(scene.refusal)
    expect(scene).toMatchObject({ looks: 2, calls: 2 })
    scene.found = new Error('no metadata')
    expect(await scene.call()).toMatchObject({ code: 'UNAVAILABLE' })
    expect(scene.looks).toBe(3)
    // What is not permitted stays so, whether or not there are other credentials.
    scene.refusal = refused(403, 'AccessDenied')
    expect(await scene.call()).toBe(scene.refusal)
  })

  it('are not looked up for what does not speak of them', async () => {
    const scene = new Scene()
    await scene.call()
    scene.accepted = NEW
    for (const refusal of [refused(404, 'NoSuchKey'), refused(503, 'SlowDown'), refused(400, 'BadDigest'), new Error('reset')]) {
      scene.refusal = refusal
      expect(await scene.call()).toBe(refusal)
    }
    expect(scene.looks).toBe(1)
  })

  it('are looked up once a second at most, and only after what was refused', async () => {
    const scene = new Scene()
    await scene.call()
    scene.accepted = NEW
    const outcomes: Promise<unknown>[] = []
    for (let round = 0; round < 100; round++) {
      outcomes.push(scene.credentials.use(() => Promise.reject(scene.refusal)).catch((error: unknown) => error))
      await scene.clock.advance(50)
    }
    await scene.clock.advance(1_000)
    expect(new Set(await Promise.all(outcomes))).toEqual(new Set([scene.refusal]))
    expect(scene.looks).toBeGreaterThanOrEqual(6)
    expect(scene.looks).toBeLessThanOrEqual(8)
  })

  it('that expire soon are replaced in the background, and serve meanwhile', async () => {
    const scene = new Scene()
    scene.found = { ...OLD, expiration: new Date(Date.now() + 60_000) }
    await scene.call()
    await scene.clock.advance(30_000)
    scene.found = undefined
    expect(await scene.credentials.get()).toMatchObject(OLD)
    await scene.clock.advance(30_000)
    expect(scene.looks).toBe(2)
    scene.found = NEW
    expect(await scene.credentials.get()).toMatchObject(OLD)
    await scene.clock.advance(1)
    expect(await scene.credentials.get()).toEqual(NEW)
  })

  it('that expired and cannot be had again are an outage; that never were there are what the chain says', async () => {
    const scene = new Scene()
    scene.found = Object.assign(new Error('none found'), { name: 'CredentialsProviderError' })
    expect(await scene.call()).toBe(scene.found)
    scene.found = { ...OLD, expiration: new Date(Date.now() - 1) }
    await scene.call()
    scene.found = new Error('no metadata')
    expect(await scene.call()).toMatchObject({ code: 'UNAVAILABLE' })
  })

  it('of a metadata service that hangs are given up after a while, and asked for anew', async () => {
    const scene = new Scene()
    scene.found = undefined
    const hung = scene.credentials.get().catch((error: unknown) => error)
    await scene.clock.advance(10_001)
    expect(await hung).toMatchObject({ code: 'UNAVAILABLE' })
    scene.found = OLD
    expect(await scene.call()).toBe('done')
  })
})
