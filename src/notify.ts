/**
 * Tells the supervisor of a process, such as systemd, how a process fares, where it asked for that: `sd_notify(3)`, one datagram on the socket that NOTIFY_SOCKET names. Node has no datagrams on Unix
 * sockets, so it takes a system call; where that cannot be made, and where nobody asked, nothing happens.
 */
import { tryLoadNative } from './util/native.ts'

const AF_UNIX = 1
const SOCK_DGRAM_CLOEXEC = 2 | 0o2000000
const MSG_NOSIGNAL_DONTWAIT = 0x4000 | 0x40
/** struct sockaddr_un (<sys/un.h>): family u16, path. */
const PATH_BYTES_MAX = 107

/** @param state lines such as `READY=1` */
export async function notifySupervisor(state: string): Promise<void> {
  const path = process.env.NOTIFY_SOCKET
  if (path === undefined || !/^[@/]/.test(path) || Buffer.byteLength(path) > PATH_BYTES_MAX) return
  const native = await tryLoadNative()
  if (native === undefined) return
  const socket = native.socket(AF_UNIX, SOCK_DGRAM_CLOEXEC, 0)
  if (socket < 0) return
  // An abstract name begins with a zero byte, and ends with its length.
  const name = Buffer.from(path.startsWith('@') ? `\0${path.slice(1)}` : path)
  const address = Buffer.concat([Uint8Array.of(AF_UNIX, 0), name])
  const message = Buffer.from(state)
  if (native.connect(socket, address, address.length) === 0) native.send(socket, message, message.length, MSG_NOSIGNAL_DONTWAIT)
  native.close(socket)
}
