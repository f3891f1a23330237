/**
 * The S3 SDK, loaded when a store is opened and not before (it takes longer to load than all of thaw), with the settings that this use needs.
 */
import http from 'node:http'
import https from 'node:https'
import type { Duplex } from 'node:stream'
import type { SecureContext } from 'node:tls'
import type * as Sdk from '@aws-sdk/client-s3'
import type { Clock } from '../util/clock.ts'
import { Trust } from '../util/trust.ts'
import { type Identity, S3Credentials } from './s3-credentials.ts'
import type { S3Location } from './s3-url.ts'

/** The SDK's own tries: one more for a kept connection that the server had closed, or a clock that is off. Patience is the retry wrapper's. */
const SDK_ATTEMPTS_MAX = 2

/** The SDK would write its warnings to stderr, between lines that are JSON. */
const SILENT = { debug() {}, info() {}, warn() {}, error() {} }

export interface S3Connection {
  readonly sdk: typeof Sdk
  readonly client: Sdk.S3Client
  /** What the client signs with. */
  readonly credentials: S3Credentials
}

export interface S3Timeouts {
  /** A connection that is not there after so long is given up. */
  readonly connectMs: number
  /** A connection on which nothing moves for so long is given up. */
  readonly idleMs: number
}

/** Makes a client; no request yet. TypeError if no region is known for AWS itself; NOT_FOUND, DENIED for the file that AWS_CA_BUNDLE names. */
export async function connectS3(location: S3Location, concurrency: number, timeouts: S3Timeouts, clock: Clock): Promise<S3Connection> {
  const [sdk, { defaultProvider }, { NodeHttpHandler }] = await Promise.all([
    import('@aws-sdk/client-s3'),
    import('@aws-sdk/credential-provider-node'),
    import('@smithy/node-http-handler'),
  ])
  // A new chain each time, because the SDK's keeps what it found; `ignoreCache` is about shared files.
  const evaluate = (): Promise<Identity> =>
    defaultProvider({ ignoreCache: true, logger: SILENT, parentClientConfig: { ...client.config } })()
  const credentials = new S3Credentials(evaluate, clock)
  const trust = new Trust({ moreFile: process.env.AWS_CA_BUNDLE || undefined })
  // A file that cannot be read is said now, and not at each connection.
  if (location.endpoint?.startsWith('http:') !== true) await trust.context()
  // A kept connection that was idle for so long is closed: one that something on the way forgot says
  // nothing, and each of them would cost whoever is given it that time.
  const agentOptions = { keepAlive: true, maxSockets: concurrency, timeout: timeouts.idleMs }
  const client: Sdk.S3Client = new sdk.S3Client({
    ...(location.endpoint !== undefined && { endpoint: location.endpoint }),
    ...regionOf(location),
    forcePathStyle: location.pathStyle,
    followRegionRedirects: location.endpoint === undefined,
    // Marked as one that remembers by itself: the SDK would keep for good what does not expire.
    credentials: Object.assign(() => credentials.get(), { memoized: true }),
    retryMode: 'standard',
    maxAttempts: SDK_ATTEMPTS_MAX,
    // thaw checks every byte itself, by the names of chunks and by checksums in documents.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    requestHandler: new NodeHttpHandler({
      connectionTimeout: timeouts.connectMs,
      socketTimeout: timeouts.idleMs,
      logger: SILENT,
      httpAgent: new http.Agent(agentOptions),
      httpsAgent: new TrustingAgent(trust, agentOptions),
    }),
  })
  try {
    await client.config.region()
  } catch (cause) {
    client.destroy()
    throw new TypeError('no AWS region: set AWS_REGION or add ?region=… to the store URL', { cause })
  }
  return { sdk, client, credentials }
}

/** Trusts whom it is to trust at the time when a connection is made. */
class TrustingAgent extends https.Agent {
  readonly #trust: Trust

  constructor(trust: Trust, options: https.AgentOptions) {
    super(options)
    this.#trust = trust
  }

  override createConnection(
    options: https.RequestOptions & { secureContext?: SecureContext },
    callback: (error: Error | null, stream: Duplex) => void,
  ): undefined {
    const connect = (secureContext: SecureContext): void => {
      const more: typeof options = { ...options, secureContext }
      const socket = super.createConnection(more, callback)
      if (socket) callback(null, socket)
    }
    // Of a failure nothing but the error is looked at.
    const failed = (error: Error): void => callback(error, undefined as unknown as Duplex)
    this.#trust.context().then(connect, failed)
  }
}

/** Other providers mostly ignore the region, but signing needs one. */
function regionOf({ endpoint, region }: S3Location): { region?: string } {
  if (region !== undefined) return { region }
  if (endpoint === undefined) return {}
  const { AWS_REGION, AWS_DEFAULT_REGION } = process.env
  return { region: AWS_REGION ?? AWS_DEFAULT_REGION ?? 'us-east-1' }
}
