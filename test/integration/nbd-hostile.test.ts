/** Clients of NBD who mean no good, or cannot help it: each costs little, and nobody else notices. */
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { createConnection, type Socket } from 'node:net'
import { join } from 'node:path'
import type { Worker } from 'node:worker_threads'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { COMMAND, OPTION } from '../../src/frontend/nbd/protocol.ts'
import type { NbdServer } from '../../src/frontend/nbd.ts'
import type { Restore } from '../../src/index.ts'
import { CLIENT_FLAGS, go, option, request, u32 } from '../nbd/client.ts'
import { sendLingering } from '../servers/lingering.ts'
import { runWell, type ServedDisk, serveDisk, servedDisk } from './nbd-served.ts'

const GREETING_BYTES = 18
const CONNECTIONS_MAX = 64
const HANDSHAKE_TIMEOUT_MS = 300

let disk: ServedDisk
let restore: Restore
let server: NbdServer
let path: string
beforeAll(async () => {
  disk = await servedDisk(2000)
  restore = (await disk.restore()).restore
  server = await serveDisk(disk, restore, { writable: true, connectionsMax: CONNECTIONS_MAX })
  path = new URL(server.uri).searchParams.get('socket')!
})
afterAll(() => disk[Symbol.asyncDispose]())

const GO = Buffer.concat([CLIENT_FLAGS, option(OPTION.go, go(''))])

/** A client that says this. */
function client(parts: readonly Buffer[], place = path): Socket {
  const socket = createConnection(place)
  socket.on('error', () => undefined)
  for (const part of parts) socket.write(part)
  return socket
}

/** It is cut off, whether that is an error to it or not. */
function closed(socket: Socket): Promise<void> {
  socket.resume()
  return new Promise(resolve => (socket.closed ? resolve() : socket.once('close', () => resolve())))
}

/** A client whose handshake is done. */
async function agreed(place = path): Promise<Socket> {
  const socket = client([GO], place)
  let bytes = 0
  while (bytes < GREETING_BYTES + 32 + 20) bytes += ((await once(socket, 'data')) as [Buffer])[0].length
  return socket
}

/** An honest one finds all in order. */
async function expectService(): Promise<void> {
  expect(await runWell('nbdinfo', ['--size', server.uri])).toBe(`${disk.image.length}\n`)
}

describe('a client', () => {
  it.each([
    ['speaks something else', [Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n')]],
    ['sets unknown flags', [u32(0xffff)]],
    ['sends an option of another magic', [CLIENT_FLAGS, Buffer.alloc(16, 1)]],
    ['asks for an export that is not there in a way that has no answer', [CLIENT_FLAGS, option(OPTION.exportName, Buffer.from('x'))]],
    ['names an export without end', [CLIENT_FLAGS, option(OPTION.exportName, Buffer.alloc(0), 0xffffffff)]],
    ['sends a request of another magic', [GO, Buffer.alloc(28, 1)]],
    ['announces a payload of 4 GiB', [GO, request(COMMAND.write, { length: 0xffffffff })]],
    ['sends options without end', [CLIENT_FLAGS, ...Array.from({ length: 1000 }, () => option(OPTION.list))]],
  ])('that %s is cut off', async (_what, parts) => {
    await closed(client(parts))
    await expectService()
  })

  it.each([
    ['half a handshake', [CLIENT_FLAGS.subarray(0, 2)]],
    ['half an option', [CLIENT_FLAGS, option(OPTION.go, Buffer.alloc(10), 1000)]],
    ['half a request', [GO, request(COMMAND.read).subarray(0, 20)]],
    ['half a payload', [GO, request(COMMAND.write, { length: 2 ** 20 }), Buffer.alloc(3000)]],
    ['requests whose answers it does not wait for', [GO, ...Array.from({ length: 50 }, () => request(COMMAND.read, { length: 2 ** 20 }))]],
  ])('that leaves after %s leaves nothing behind', async (_what, parts) => {
    const sockets = Array.from({ length: 20 }, () => client(parts))
    await Promise.all(sockets.map(socket => once(socket, 'data')))
    for (const socket of sockets) socket.destroy()
    await expectService()
  })

  it('that never comes to the point is cut off when its time is over; who has come to it is not', async () => {
    await using hasty = await serveDisk(disk, restore, { handshakeTimeoutMs: HANDSHAKE_TIMEOUT_MS })
    const place = new URL(hasty.uri).searchParams.get('socket')!
    const served = await agreed(place)
    const unfinished = [[], [CLIENT_FLAGS], [CLIENT_FLAGS, option(OPTION.go, Buffer.alloc(10), 1000)]]
    await Promise.all(unfinished.map(parts => closed(client(parts, place))))
    served.write(request(COMMAND.read, { length: 16 }))
    expect(((await once(served, 'data')) as [Buffer])[0].length).toBeGreaterThan(0)
    served.destroy()
  })

  // Needs Linux 6.16: before it a server cannot refuse what it is sent, and this is red.
  it('that sends sockets whose end takes long holds up nobody', async () => {
    await using _ = await sendLingering(path, [CLIENT_FLAGS, GO.subarray(4)])
    await expectService()
  })

  it('that does not read its replies holds up nobody', async () => {
    const slow = await Promise.all(Array.from({ length: 20 }, () => agreed()))
    for (const socket of slow) {
      socket.pause()
      for (let index = 0; index < 60; index++) socket.write(request(COMMAND.read, { cookie: index, length: 4 * 2 ** 20 }))
    }
    const target = join(disk.dir, 'beside.img')
    await runWell('nbdcopy', [server.uri, target])
    expect((await readFile(target)).equals(disk.image)).toBe(true)
    for (const socket of slow) socket.destroy()
  })

  it('that reads slowly gets every byte', async () => {
    const socket = await agreed()
    const count = 24
    for (let index = 0; index < count; index++) socket.write(request(COMMAND.read, { offset: index * 4096, length: 2 ** 20 }))
    const parts: Buffer[] = []
    let bytes = 0
    for await (const part of socket as AsyncIterable<Buffer>) {
      parts.push(part)
      bytes += part.length
      if (bytes === count * (16 + 2 ** 20)) break
      if (parts.length % 16 === 0) await new Promise(resolve => setImmediate(resolve))
    }
    const all = Buffer.concat(parts)
    for (let index = 0; index < count; index++) {
      const at = index * (16 + 2 ** 20) + 16
      expect(all.subarray(at, at + 2 ** 20).equals(disk.image.subarray(index * 4096, index * 4096 + 2 ** 20))).toBe(true)
    }
  })
})

describe('many clients', () => {
  it('who only connect keep nobody out, and cost little', async () => {
    const before = process.memoryUsage().rss
    const sockets: Socket[] = []
    for (let batch = 0; batch < 20; batch++) {
      const opened = Array.from({ length: 100 }, () => createConnection(path).on('error', () => undefined))
      await Promise.all(opened.map(socket => Promise.race([once(socket, 'connect'), once(socket, 'close')])))
      sockets.push(...opened)
      await expectService()
    }
    expect(process.memoryUsage().rss - before).toBeLessThan(200 * 2 ** 20)
    for (const socket of sockets) socket.destroy()
    await expectService()
  })

  it('who are served are not cut off for more of them', async () => {
    await using few = await serveDisk(disk, restore, { connectionsMax: 4 })
    const place = new URL(few.uri).searchParams.get('socket')!
    const served: Socket[] = []
    for (let index = 0; index < 4; index++) served.push(await agreed(place))
    await closed(client([GO], place))
    for (const socket of served) {
      socket.write(request(COMMAND.read, { length: 16 }))
      const [reply] = (await once(socket, 'data')) as [Buffer]
      expect(reply.length).toBeGreaterThan(0)
      socket.destroy()
    }
  })

  it('who talk nonsense are cut off or answered', async () => {
    for (let round = 0; round < 20; round++) {
      const sockets = Array.from({ length: 20 }, (_, index) => {
        const noise = randomBytes(1 + ((round * 997 + index * 131) % 70_000))
        return client([index % 2 === 0 ? CLIENT_FLAGS : GO, noise])
      })
      for (const socket of sockets) socket.end()
      await Promise.all(sockets.map(closed))
    }
    await expectService()
  })
})

describe('a pager that dies', () => {
  it('takes its clients along: none waits for ever', async () => {
    const workers: Worker[] = []
    const note = (worker: Worker): void => void workers.push(worker)
    await using own = await servedDisk(100)
    const { restore: doomed, events } = await own.restore()
    // Pagers start with the first that is served.
    process.on('worker', note)
    const dying = await serveDisk(own, doomed)
    process.off('worker', note)
    const place = new URL(dying.uri).searchParams.get('socket')!
    const [served, begun] = [await agreed(place), client([CLIENT_FLAGS], place)]
    await once(begun, 'data')
    const ended = workers.map(worker => worker.terminate())
    // It looks up from its wait.
    served.write(request(COMMAND.read, { length: 16 }))
    await Promise.all([closed(served), closed(begun)])
    expect((await dying.closed).reason).toBe('failed')
    expect(events.at(-1)).toMatchObject({ kind: 'closed', reason: 'failed' })
    await doomed.close()
    await Promise.all(ended)
  })
})
