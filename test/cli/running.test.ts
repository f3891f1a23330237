/** Which sockets of the state folder are removed when somebody looks for running commands. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { findRunning } from '../../src/cli/running.ts'
import { loadNative } from '../../src/util/native.ts'

const AF_UNIX = 1
const SOCK_STREAM = 1
const ADDRESS_BYTES = 110

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'thaw-running-'))
})
afterEach(() => rm(folder, { recursive: true }))

/** Bound, and nobody listens: as a command's is for a moment, and a dead one's for ever. */
async function bound(pid: number): Promise<string> {
  const native = await loadNative('the test')
  const name = `${pid}-abcdef01.sock`
  const address = Buffer.alloc(ADDRESS_BYTES)
  address.writeUInt16LE(AF_UNIX, 0)
  address.write(join(folder, name), 2)
  const fd = native.socket(AF_UNIX, SOCK_STREAM, 0)
  expect(native.bind(fd, address, ADDRESS_BYTES)).toBe(0)
  native.close(fd)
  return name
}

it('those of processes that are gone, and not one that a living process is about to listen at', async () => {
  const child = spawn('true')
  await once(child, 'exit')
  const living = await bound(process.pid)
  await bound(child.pid!)
  expect(await findRunning(folder, AbortSignal.timeout(10_000))).toEqual([])
  expect(await readdir(folder)).toEqual([living])
})
