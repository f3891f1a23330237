/**
 * A tiny S3 in memory over HTTP that misbehaves as it is told, for what a real server cannot be made to do: ignore a header, lose an answer, stop in the
 * middle of a body. It knows PUT, GET, HEAD and DELETE of objects, and checks nothing.
 */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'

export interface FakeS3 {
  readonly endpoint: string
  readonly objects: Map<string, Buffer>
  /** Called before each request is answered; true means that it has been answered. */
  misbehave: (request: IncomingMessage, response: ServerResponse, store: () => void) => boolean
  readonly requests: string[]
  /** Whether `If-None-Match` is honoured. */
  conditional: boolean
  stop(): Promise<void>
}

export async function startFakeS3(): Promise<FakeS3> {
  const objects = new Map<string, Buffer>()
  const server = createServer(async (request, response) => {
    const body = Buffer.concat(await Array.fromAsync(request as AsyncIterable<Buffer>))
    const key = request.url?.split('?')[0] ?? ''
    fake.requests.push(`${request.method} ${key}`)
    const store = (): void => void objects.set(key, body)
    if (!fake.misbehave(request, response, store)) answer(request, response, key, store)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  const port = typeof address === 'object' ? address?.port : undefined

  const answer = (request: IncomingMessage, response: ServerResponse, key: string, store: () => void): void => {
    const there = objects.get(key)
    if (request.method === 'PUT') {
      const refused = fake.conditional && request.headers['if-none-match'] === '*' && there !== undefined
      if (!refused) store()
      if (refused) fail(response, 412, 'PreconditionFailed')
      else response.setHeader('etag', '"1"').end()
    } else if (request.method === 'DELETE') {
      objects.delete(key)
      response.writeHead(204).end()
    } else if (there === undefined) {
      fail(response, 404, 'NoSuchKey')
    } else {
      const checksum = createHash('sha256').update(there).digest('base64')
      response.writeHead(200, { 'content-length': there.length, 'x-amz-checksum-sha256': checksum })
      response.end(request.method === 'HEAD' ? undefined : there)
    }
  }

  const fake: FakeS3 = {
    endpoint: `http://127.0.0.1:${port}`,
    objects,
    requests: [],
    misbehave: () => false,
    conditional: true,
    async stop() {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
  return fake
}

/** Answers with an S3 error document. */
export function fail(response: ServerResponse, status: number, code: string): void {
  response.writeHead(status, { 'content-type': 'application/xml' })
  response.end(`<?xml version="1.0"?><Error><Code>${code}</Code><Message>on purpose</Message></Error>`)
}
