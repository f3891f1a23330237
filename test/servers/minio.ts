/**
 * A real MinIO for tests: on a free port of 127.0.0.1, over a temporary folder, with credentials of its own. Ends with `stop()`.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { CreateBucketCommand, S3Client } from '@aws-sdk/client-s3'
import { findMinio } from '../../scripts/find-minio.ts'

const READY_WITHIN_MS = 20_000
const READY_POLL_MS = 50
const START_ATTEMPTS_MAX = 3

export interface Minio {
  /** `http://127.0.0.1:<port>` */
  readonly endpoint: string
  readonly credentials: { readonly accessKeyId: string; readonly secretAccessKey: string }
  readonly pid: number
  /** Starts it again over the same objects with other credentials: those from before are refused from then on. */
  restartAs(credentials: Minio['credentials']): Promise<void>
  /** Creates a bucket with a fresh name and returns that. */
  createBucket(): Promise<string>
  /** Kills the server and removes its folder. Idempotent. */
  stop(): Promise<void>
}

/** Starts a server and waits until it is ready. Throws if there is no binary. */
export async function startMinio(): Promise<Minio> {
  const binary = findMinio()
  if (binary === undefined) throw new Error('no MinIO: run `npm run setup`, put minio on PATH, or set MINIO_BIN')
  for (let attempt = 1; ; attempt++) {
    try {
      return await start(binary)
    } catch (error) {
      // Another process may take the free port first.
      if (attempt === START_ATTEMPTS_MAX) throw error
    }
  }
}

/** Runs `work` with these credentials as the process's own, which is where the default chain looks first. */
export async function withCredentials<T>({ accessKeyId, secretAccessKey }: Minio['credentials'], work: () => Promise<T>): Promise<T> {
  const saved = { ...process.env }
  Object.assign(process.env, { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey })
  try {
    return await work()
  } finally {
    for (const name of ['AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY']) {
      if (saved[name] === undefined) delete process.env[name]
      else process.env[name] = saved[name]
    }
  }
}

async function start(binary: string): Promise<Minio> {
  const folder = await mkdtemp(join(tmpdir(), 'thaw-minio-'))
  const port = await freePort()
  const endpoint = `http://127.0.0.1:${port}`
  let credentials = { accessKeyId: 'thaw-test', secretAccessKey: randomBytes(12).toString('hex') }
  let server: ChildProcess
  const launch = async (): Promise<void> => {
    server = spawn(binary, ['server', '--quiet', '--address', `127.0.0.1:${port}`, folder], {
      env: {
        ...process.env,
        MINIO_ROOT_USER: credentials.accessKeyId,
        MINIO_ROOT_PASSWORD: credentials.secretAccessKey,
        MINIO_BROWSER: 'off',
      },
      stdio: ['ignore', 'ignore', 'ignore'],
    })
    await once(server, 'spawn')
    await waitReady(`${endpoint}/minio/health/ready`, server)
  }
  const stop = async (): Promise<void> => {
    await kill(server)
    await rm(folder, { recursive: true, force: true })
  }
  try {
    await launch()
  } catch (error) {
    await stop()
    throw error
  }
  return {
    endpoint,
    get credentials() {
      return credentials
    },
    get pid() {
      return server.pid ?? 0
    },
    stop,
    async restartAs(others) {
      await kill(server)
      credentials = others
      await launch()
    },
    createBucket: () => createBucket(endpoint, credentials),
  }
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const address = probe.address()
  probe.close()
  await once(probe, 'close')
  if (address === null || typeof address === 'string') throw new Error('no free port')
  return address.port
}

async function waitReady(url: string, server: ChildProcess): Promise<void> {
  const signal = AbortSignal.timeout(READY_WITHIN_MS)
  while (server.exitCode === null) {
    const answer = await fetch(url, { signal }).catch(() => undefined)
    await answer?.body?.cancel()
    if (answer?.ok === true) return
    await sleep(READY_POLL_MS, undefined, { signal })
  }
  throw new Error(`MinIO exited with ${server.exitCode} before it was ready`)
}

async function kill(server: ChildProcess): Promise<void> {
  if (server.exitCode !== null || server.signalCode !== null || server.pid === undefined) return
  const exited = once(server, 'exit')
  server.kill('SIGKILL')
  await exited
}

async function createBucket(endpoint: string, credentials: Minio['credentials']): Promise<string> {
  const client = new S3Client({ endpoint, credentials, region: 'us-east-1', forcePathStyle: true })
  const bucket = `thaw-${randomBytes(6).toString('hex')}`
  await client.send(new CreateBucketCommand({ Bucket: bucket }))
  client.destroy()
  return bucket
}
