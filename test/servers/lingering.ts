/** Sends a Unix socket's server a TCP socket that cannot be closed without waiting: its peer does not read, and it lingers. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { DescriptorMessages } from '../../src/util/descriptor-message.ts'
import { loadNative, type Native } from '../../src/util/native.ts'

const AF_UNIX = 1
const AF_INET = 2
const SOCK_STREAM = 1
const SOL_SOCKET = 1
const SO_LINGER = 13
const MSG_DONTWAIT = 0x40
/** Longer than a test waits. */
const LINGER_S = 120

/** Each message is these bytes with such a socket, which is the receiver's alone then. Disposing of it hangs up. */
export async function sendLingering(path: string, messages: readonly Buffer[]): Promise<AsyncDisposable> {
  const native = await loadNative('this test')
  const deaf: Socket[] = []
  const server = createServer({ pauseOnConnect: true }, socket => deaf.push(socket.on('error', () => undefined)))
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const client = connected(native, AF_UNIX, Buffer.from(`\x01\0${path}\0`))
  const channel = new DescriptorMessages(native, client, { bytesMax: 4096 })
  for (const bytes of messages) {
    const lingering = await fullSocket(native, (server.address() as AddressInfo).port)
    // One that may not, or is turned away already: then it is closed here.
    if (channel.send(bytes, lingering) !== 0) setLinger(native, lingering, 0)
    native.close(lingering)
  }
  return {
    async [Symbol.asyncDispose]() {
      native.close(client)
      for (const socket of deaf) socket.destroy()
      server.close()
    },
  }
}

async function fullSocket(native: Native, port: number): Promise<number> {
  const fd = connected(native, AF_INET, Buffer.from([AF_INET, 0, port >> 8, port & 255, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]))
  const bytes = Buffer.alloc(2 ** 18)
  while (native.send(fd, bytes, bytes.length, MSG_DONTWAIT) > 0);
  setLinger(native, fd, LINGER_S)
  return fd
}

function setLinger(native: Native, fd: number, seconds: number): void {
  const linger = Buffer.from(Int32Array.of(seconds > 0 ? 1 : 0, seconds).buffer)
  native.setsockopt(fd, SOL_SOCKET, SO_LINGER, linger, linger.length)
}

function connected(native: Native, family: number, address: Buffer): number {
  const fd = native.socket(family, SOCK_STREAM, 0)
  assert(native.connect(fd, address, address.length) === 0, `connect: errno ${native.errno()}`)
  return fd
}
