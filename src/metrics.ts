/**
 * Figures of the read path for Prometheus, as text and on a port of their own. The port is opt-in and speaks to whoever can reach it: it tells figures, no names.
 *
 * The figures are counted elsewhere (stats.ts) and read when somebody asks, so that being watched costs the read path nothing. prom-client is loaded then, and node:http for the port.
 */
import { once } from 'node:events'
import type { Server, ServerResponse } from 'node:http'
import { fromErrno } from './errors.ts'
import { cacheRegistry, processRegistry } from './metrics/registry.ts'
import type { ReadFigures } from './stats.ts'

/** Who has figures: a `Cache`, or a `SnapshotStore`. */
export interface FigureSource {
  stats(): Promise<ReadFigures>
}

export interface MetricsOptions {
  /** Default: 127.0.0.1. */
  readonly host?: string | undefined
  /** 0: any that is free. */
  readonly port: number
  /** Ends the serving, like `close()`. */
  readonly signal?: AbortSignal | undefined
}

export interface MetricsServer extends AsyncDisposable {
  /** `http://host:port/metrics` */
  readonly url: string
  /** Idempotent. */
  close(): Promise<void>
}

const LOOPBACK = '127.0.0.1'
const CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8'

/** All figures of a cache and of this process, in Prometheus' text format. */
export async function metricsText(source: FigureSource): Promise<string> {
  const client = await import('prom-client')
  const registries = [cacheRegistry(client, await source.stats()), processRegistry(client)]
  return (await Promise.all(registries.map(registry => registry.metrics()))).join('\n')
}

/** Serves `GET /metrics` until it is closed. Does not keep the process alive. @throws RangeError for a port that cannot be; DENIED, UNAVAILABLE if the port cannot be had */
export async function serveMetrics(source: FigureSource, { host = LOOPBACK, port, signal }: MetricsOptions): Promise<MetricsServer> {
  const { createServer } = await import('node:http')
  signal?.throwIfAborted()
  const server = createServer(({ method, url }, response) => {
    if (method !== 'GET' || url !== '/metrics') response.writeHead(404).end()
    else void answer(source, response)
  })
  server.unref()
  try {
    server.listen({ host, port })
    await once(server, 'listening')
  } catch (error) {
    throw fromErrno(error, 'cannot serve metrics', `${host}:${port}`)
  }
  // A connection that cannot be accepted is the asker's loss.
  server.on('error', () => undefined)
  const close = (): Promise<void> => closeServer(server)
  signal?.addEventListener('abort', () => void close(), { once: true })
  return { url: urlOf(server), close, [Symbol.asyncDispose]: close }
}

async function answer(source: FigureSource, response: ServerResponse): Promise<void> {
  try {
    const text = await metricsText(source)
    response.writeHead(200, { 'content-type': CONTENT_TYPE }).end(text)
  } catch {
    // The cache was closed meanwhile.
    response.writeHead(503).end()
  }
}

function urlOf(server: Server): string {
  const address = server.address()
  if (address === null || typeof address === 'string') return ''
  const host = address.family === 'IPv6' ? `[${address.address}]` : address.address
  return `http://${host}:${address.port}/metrics`
}

async function closeServer(server: Server): Promise<void> {
  server.closeAllConnections()
  if (!server.listening) return
  server.close()
  await once(server, 'close')
}
