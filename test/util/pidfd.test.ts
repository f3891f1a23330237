/** Peers of sockets and processes by pidfd, with real ones; what kernels before 6.5 do is had by refusing the option that they lack. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync } from 'node:fs'
import { afterEach, describe, expect, it } from 'vitest'
import { loadNative, type Native } from '../../src/util/native.ts'
import { hasEnded, killErrno, killProcess, peerProcess } from '../../src/util/pidfd.ts'

const AF_UNIX = 1
const SOCK_STREAM_CLOEXEC = 0o2000001
const SO_PEERPIDFD = 77
const ESRCH = 3

const native = await loadNative('the test')
const oldNative: Native = {
  ...native,
  getsockopt: (fd, level, option, value, size) => (option === SO_PEERPIDFD ? -1 : native.getsockopt(fd, level, option, value, size)),
}

const opened = new Set<number>()
const children = new Set<ChildProcess>()

afterEach(() => {
  for (const fd of opened) closeSync(fd)
  opened.clear()
  for (const child of children) child.kill('SIGKILL')
  children.clear()
})

function socketPair(): readonly [number, number] {
  const ends = Buffer.alloc(8)
  expect(native.socketpair(AF_UNIX, SOCK_STREAM_CLOEXEC, 0, ends)).toBe(0)
  const pair = [ends.readInt32LE(0), ends.readInt32LE(4)] as const
  for (const fd of pair) opened.add(fd)
  return pair
}

function close(fd: number): void {
  opened.delete(fd)
  closeSync(fd)
}

describe.each([
  ['this kernel', native],
  ['one before 6.5', oldNative],
] as const)('the peer of a socket, on %s', (_, kernel) => {
  it('is the process that made it', () => {
    const [end] = socketPair()
    const peer = peerProcess(kernel, end)!
    opened.add(peer.pidfd)
    expect(peer).toMatchObject({ pid: process.pid, uid: process.getuid!(), gid: process.getgid!() })
    expect(hasEnded(kernel, peer.pidfd)).toBe(false)
  })

  it('is an error where there is no socket', () => {
    expect(() => peerProcess(kernel, 9_999_999)).toThrow()
  })
})

it('a peer that closed its end is not looked for by a number that may be another’s', () => {
  const [end, other] = socketPair()
  close(other)
  expect(peerProcess(oldNative, end)).toBe(undefined)
})

it('a process is killed, and seen to have ended', async () => {
  const child = spawn('sleep', ['1000'])
  children.add(child)
  const pidfd = native.pidfdOpen(child.pid!, 0)
  opened.add(pidfd)
  expect([hasEnded(native, pidfd), killErrno(native, pidfd)]).toEqual([false, 0])
  const exit = once(child, 'exit')
  killProcess(native, pidfd)
  expect(await exit).toEqual([null, 'SIGKILL'])
  expect([hasEnded(native, pidfd), killErrno(native, pidfd)]).toEqual([true, ESRCH])
  killProcess(native, pidfd)
})
