/**
 * A running command's Unix socket, by which `thaw stats` finds it: HTTP, so that `curl --unix-socket` and Prometheus exporters can ask too.
 *
 * It goes when the command ends. One whose process was killed stays, refuses connections, and is removed by whoever finds it.
 */
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { chmod } from 'node:fs/promises'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { makeStateFolder } from './state-folder.ts'

/** Text by path. */
export type Answers = Readonly<Record<`/${string}`, () => Promise<string>>>

const SOCKET_MODE = 0o600
const NAME_BYTES = 4

/** Listens until it is disposed of. Does not keep the process alive. Rejects with raw errors of Node, or one that says what is wrong with the folder. */
export async function announce(folder: string, answers: Answers): Promise<AsyncDisposable> {
  await makeStateFolder(folder)
  const paths = new Map<string | undefined, () => Promise<string>>(Object.entries(answers))
  const server = createServer(({ url }, response) => {
    const answer = paths.get(url)
    if (answer === undefined) response.writeHead(404).end()
    else
      answer().then(
        text => response.end(text),
        () => response.writeHead(503).end(),
      )
  })
  server.unref()
  const socket = join(folder, `${process.pid}-${randomBytes(NAME_BYTES).toString('hex')}.sock`)
  server.listen(socket)
  await once(server, 'listening')
  // A connection that cannot be accepted is the asker's loss.
  server.on('error', () => undefined)
  const close = async (): Promise<void> => {
    server.closeAllConnections()
    // Removes the socket.
    server.close()
    await once(server, 'close')
  }
  try {
    await chmod(socket, SOCKET_MODE)
  } catch (error) {
    await close()
    throw error
  }
  return { [Symbol.asyncDispose]: close }
}
