/**
 * Running commands, found by their sockets in the state folder and asked over them (announce.ts).
 *
 * Sockets that refuse and whose process is gone are removed. A process that does not answer in time is shown as that.
 */
import { readdir, unlink } from 'node:fs/promises'
import { request } from 'node:http'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import type { ReadFigures, RestoreFigures } from '../index.ts'

/** What a command says of itself. */
export interface Running {
  readonly pid: number
  readonly command: string
  /** RFC 3339. */
  readonly startedAt: string
  readonly store: string
  readonly figures: ReadFigures
  /** Empty from versions that had none. */
  readonly restores: readonly RestoreFigures[]
}

export interface FoundSocket {
  readonly pid: number
  readonly socket: string
  /** Undefined: none in time. */
  readonly answer: Running | undefined
}

const ANSWER_WITHIN_MS = 1000
const SOCKET = /^(\d+)-[0-9a-f]+\.sock$/

export async function findRunning(folder: string, signal: AbortSignal): Promise<FoundSocket[]> {
  const names = await readdir(folder).catch(() => [])
  const sockets = names.filter(name => SOCKET.test(name))
  const found = await Promise.all(sockets.map(name => ask(join(folder, name), Number.parseInt(name, 10), signal)))
  signal.throwIfAborted()
  return found.filter(process => process !== undefined).sort((a, b) => a.pid - b.pid)
}

/** Undefined if the process is gone. */
async function ask(socket: string, pid: number, signal: AbortSignal): Promise<FoundSocket | undefined> {
  try {
    return { pid, socket, answer: parse(await get(socket, AbortSignal.any([signal, AbortSignal.timeout(ANSWER_WITHIN_MS)]))) }
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined
    if (code === 'ENOENT') return undefined
    if (code !== 'ECONNREFUSED') return { pid, socket, answer: undefined }
    // One that lives is between making its socket and listening at it.
    if (isAlive(pid)) return undefined
    // Not ours to remove, or removed by now: then it is somebody else's to care.
    await unlink(socket).catch(() => undefined)
    return undefined
  }
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch (error) {
    // Another user's lives too.
    return !(error instanceof Error && 'code' in error && error.code === 'ESRCH')
  }
}

async function get(socketPath: string, signal: AbortSignal): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>()
  const asked = request({ socketPath, path: '/stats', signal, agent: false }, response => {
    if (response.statusCode === 200) text(response).then(resolve, reject)
    else reject(new Error(`answered with ${response.statusCode}`))
  })
  asked.on('error', reject).end()
  return await promise
}

/** Another version of thaw may say something else: then it is as if it said nothing. */
function parse(body: string): Running | undefined {
  const answer: Running & { readonly schema: number } = JSON.parse(body)
  return answer.schema === 1 ? { ...answer, restores: answer.restores ?? [] } : undefined
}

/** Asks a command to do something; its lines as they come. Rejects with raw errors of Node. */
export async function* tellRunning(socketPath: string, path: string, body: object, signal: AbortSignal): AsyncGenerator<string> {
  const { promise, resolve, reject } = Promise.withResolvers<AsyncIterable<string>>()
  const asked = request({ socketPath, path, method: 'POST', signal, agent: false }, response => {
    if (response.statusCode === 200) resolve(response.setEncoding('utf8'))
    else reject(new Error(`answered with ${response.statusCode}`))
  })
  asked.on('error', reject).end(JSON.stringify(body))
  let rest = ''
  for await (const piece of await promise) {
    const lines = (rest + piece).split('\n')
    rest = lines.pop()!
    yield* lines
  }
}
