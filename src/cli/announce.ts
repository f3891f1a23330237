/**
 * A running command's Unix socket, by which `thaw stats` finds it: HTTP, so that `curl --unix-socket` and Prometheus exporters can ask too.
 *
 * It is made in a folder of its own (mode 0700), and put in place when it has its mode and is listened at: nobody finds it sooner, whatever the umask.
 * It goes when the command ends. One whose process was killed stays, refuses connections, and is removed by whoever finds it.
 */
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { chmod, mkdtemp, rename, rm } from 'node:fs/promises'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { basename, dirname, join } from 'node:path'
import { makeStateFolder } from './state-folder.ts'

/** One answer: text, or lines as they come. `signal` is aborted when the asker goes away, or the command ends. */
export type Answer = (body: string, signal: AbortSignal) => Promise<string> | AsyncIterable<string>

/** By method and path. */
export type Answers = Readonly<Record<`${'GET' | 'POST'} /${string}`, Answer>>

const SOCKET_MODE = 0o600
const NAME_BYTES = 4
/** A commit's is a few paths and labels. */
const BODY_BYTES_MAX = 2 ** 20

/** Listens until it is disposed of. Does not keep the process alive. Rejects with raw errors of Node, or one that says what is wrong with the folder. */
export async function announce(folder: string, answers: Answers): Promise<AsyncDisposable> {
  await makeStateFolder(folder)
  const known = new Map<string, Answer>(Object.entries(answers))
  const ending = new AbortController()
  const server = createServer((request, response) => {
    const answer = known.get(`${request.method} ${request.url}`)
    if (answer === undefined) response.writeHead(404).end()
    else void respond(answer, request, response, ending.signal)
  })
  server.unref()
  const socket = join(folder, `${process.pid}-${randomBytes(NAME_BYTES).toString('hex')}.sock`)
  await listenPrivately(server, socket)
  // A connection that cannot be accepted is the asker's loss.
  server.on('error', () => undefined)
  return {
    [Symbol.asyncDispose]: async () => {
      ending.abort(new Error('the command ends'))
      await rm(socket, { force: true })
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
}

/** Its name there is as long as in its place, so that what cannot be connected to cannot be made. */
async function listenPrivately(server: Server, socket: string): Promise<void> {
  const folder = await mkdtemp(join(dirname(socket), '.'))
  const here = join(folder, basename(socket))
  try {
    server.listen(here)
    await once(server, 'listening')
    await chmod(here, SOCKET_MODE)
    await rename(here, socket)
  } catch (error) {
    server.close()
    throw error
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

async function respond(answer: Answer, request: IncomingMessage, response: ServerResponse, ending: AbortSignal): Promise<void> {
  const gone = new AbortController()
  response.once('close', () => gone.abort(new Error('the asker is gone')))
  try {
    const answered = answer(await bodyOf(request), AbortSignal.any([gone.signal, ending]))
    if (answered instanceof Promise) response.end(await answered)
    else {
      for await (const line of answered) response.write(line)
      response.end()
    }
  } catch {
    // Whoever asked sees that it went wrong; what it was is said in the answer itself, where somebody expects it.
    if (!response.headersSent) response.writeHead(503)
    response.end()
  }
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  let body = ''
  for await (const text of request.setEncoding('utf8')) {
    body += text
    if (body.length > BODY_BYTES_MAX) throw new RangeError('too long')
  }
  return body
}
