/**
 * Real Redis servers for tests: on free ports of 127.0.0.1, over temporary folders, without files of their own. Plain, with a password, with TLS, with a memory
 * limit, or three as a cluster. They end with `stop()`.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { findProgram } from '../../scripts/find-program.ts'
import { makeCertificates } from './certificates.ts'

const READY_WITHIN_MS = 10_000
const POLL_MS = 20
const START_ATTEMPTS_MAX = 3

export interface RedisOptions {
  readonly password?: string
  readonly tls?: boolean
  /** As Redis writes it: `1mb`. */
  readonly maxmemory?: string
  readonly policy?: string
}

export interface RedisServer {
  readonly port: number
  /** `redis://127.0.0.1:<port>`, with the password if there is one; `rediss://` with TLS. */
  readonly url: string
  /** The CA of a server with TLS. */
  readonly caFile: string
  readonly pid: number
  /** One command by redis-cli; resolves to what that prints. */
  command(...args: readonly string[]): Promise<string>
  /** As a power cut would. */
  kill(): Promise<void>
  /** After `kill`, at the same port, empty. */
  restart(): Promise<void>
  /** Kills the server and removes its folder. Idempotent. */
  stop(): Promise<void>
}

/** Starts a server and waits until it answers. */
export async function startRedis(options: RedisOptions = {}): Promise<RedisServer> {
  return startWith(options, () => [])
}

/** Three masters that have all slots between them, and lose a third of them when one is lost. */
export async function startRedisCluster(): Promise<readonly RedisServer[]> {
  const servers = await startMany(3, () =>
    startWith({}, clusterPort => [
      ...['--cluster-enabled', 'yes', '--cluster-port', `${clusterPort}`, '--cluster-node-timeout', '1000'],
      ...['--cluster-require-full-coverage', 'no'],
    ]),
  )
  try {
    await run(program('redis-cli'), ['--cluster', 'create', ...servers.map(({ port }) => `127.0.0.1:${port}`), '--cluster-yes'])
    for (const server of servers) await until(async () => (await server.command('cluster', 'info')).includes('cluster_state:ok'))
    return servers
  } catch (error) {
    await Promise.all(servers.map(server => server.stop()))
    throw error
  }
}

/** That many, or none and an error. */
export async function startMany(count: number, start: () => Promise<RedisServer>): Promise<RedisServer[]> {
  const started = await Promise.allSettled(Array.from({ length: count }, start))
  const servers = started.flatMap(each => (each.status === 'fulfilled' ? [each.value] : []))
  const failed = started.find(each => each.status === 'rejected')
  if (failed === undefined) return servers
  await Promise.all(servers.map(server => server.stop()))
  throw failed.reason
}

/** Tries until it is so. */
export async function until(isSo: () => Promise<boolean>): Promise<void> {
  const signal = AbortSignal.timeout(READY_WITHIN_MS)
  while (!(await isSo().catch(() => false))) await sleep(POLL_MS, undefined, { signal })
}

async function startWith(options: RedisOptions, more: (freePort: number) => readonly string[]): Promise<RedisServer> {
  for (let attempt = 1; ; attempt++) {
    const [port, second] = await freePorts()
    try {
      return await start(port, options, more(second))
    } catch (error) {
      // Another process may take the free port first.
      if (attempt === START_ATTEMPTS_MAX) throw error
    }
  }
}

async function start(port: number, options: RedisOptions, more: readonly string[]): Promise<RedisServer> {
  const folder = await mkdtemp(join(tmpdir(), 'thaw-redis-'))
  const { password, tls = false, maxmemory = '256mb', policy = 'allkeys-lru' } = options
  if (tls) await makeCertificates(folder)
  const args = [
    ...(tls ? ['--port', '0', '--tls-port', `${port}`, ...tlsArguments(folder)] : ['--port', `${port}`]),
    ...['--bind', '127.0.0.1', '--dir', folder, '--save', '', '--appendonly', 'no', '--maxmemory', maxmemory, '--maxmemory-policy', policy],
    ...(password === undefined ? [] : ['--requirepass', password]),
    ...more,
  ]
  const caFile = join(folder, 'ca.pem')
  const auth = [...(password === undefined ? [] : ['-a', password, '--no-auth-warning']), ...(tls ? ['--tls', '--cacert', caFile] : [])]
  const command = (...words: readonly string[]): Promise<string> =>
    run(program('redis-cli'), ['-h', '127.0.0.1', '-p', `${port}`, ...auth, ...words])
  let server: ChildProcess
  const launch = async (): Promise<void> => {
    server = spawn(program('redis-server'), args, { stdio: 'ignore' })
    await once(server, 'spawn')
    await waitListening(port, server)
    await until(async () => (await command('ping')).startsWith('PONG'))
  }
  const stop = async (): Promise<void> => {
    await killProcess(server)
    await rm(folder, { recursive: true, force: true })
  }
  try {
    await launch()
  } catch (error) {
    await stop()
    throw error
  }
  return {
    port,
    url: `redis${tls ? 's' : ''}://${password === undefined ? '' : `:${encodeURIComponent(password)}@`}127.0.0.1:${port}`,
    caFile,
    get pid() {
      return server.pid!
    },
    command,
    kill: () => killProcess(server),
    restart: launch,
    stop,
  }
}

function program(name: string): string {
  const path = findProgram(name)
  if (path === undefined) throw new Error(`no ${name}: run \`npm run setup\``)
  return path
}

async function run(file: string, args: readonly string[], cwd?: string): Promise<string> {
  return (await promisify(execFile)(file, args, { cwd, timeout: READY_WITHIN_MS * 2 })).stdout
}

/** Two at a time, so that they differ. */
async function freePorts(): Promise<[number, number]> {
  const probes = [0, 0].map(port => createServer().listen(port, '127.0.0.1'))
  await Promise.all(probes.map(probe => once(probe, 'listening')))
  const [first, second] = probes.map(probe => {
    const address = probe.address()
    if (address === null || typeof address === 'string') throw new Error('no free port')
    return address.port
  })
  await Promise.all(
    probes.map(probe => {
      probe.close()
      return once(probe, 'close')
    }),
  )
  return [first!, second!]
}

async function waitListening(port: number, server: ChildProcess): Promise<void> {
  await until(async () => {
    if (server.exitCode !== null) throw new Error('redis-server ended')
    const socket = connect(port, '127.0.0.1')
    try {
      await once(socket, 'connect')
      return true
    } finally {
      socket.destroy()
    }
  })
}

async function killProcess(server: ChildProcess): Promise<void> {
  if (server.exitCode !== null || server.signalCode !== null) return
  const exited = once(server, 'exit')
  server.kill('SIGKILL')
  await exited
}

function tlsArguments(folder: string): readonly string[] {
  const file = (name: string): string => join(folder, name)
  return [
    ...['--tls-cert-file', file('server.pem'), '--tls-key-file', file('server.key')],
    ...['--tls-ca-cert-file', file('ca.pem'), '--tls-auth-clients', 'no'],
  ]
}
