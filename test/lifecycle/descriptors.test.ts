/** Numbers of descriptors, which the kernel gives away again at once: who has let go of one has nothing to do with what has it now. */
import { closeSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { serveNbd } from '../../src/index.ts'
import { LineProcess } from '../uffd/line-process.ts'
import { MemoryStore, type OpenMemory } from '../uffd/serving.ts'

const CLIENT = join(import.meta.dirname, '../nbd/client-child.ts')
const NUMBERS = 32
const ANSWER_WITHIN_MS = 10_000

let memory: MemoryStore
let open: OpenMemory

beforeAll(async () => {
  memory = await MemoryStore.of(Buffer.alloc(2 ** 18, 'B'))
  open = await memory.open({ memoryBytes: 2 ** 24, pagers: { threads: 1 } })
})
afterAll(async () => {
  await open[Symbol.asyncDispose]()
  await memory[Symbol.asyncDispose]()
})

it("the end of a restore does not stop what has its socket's number now", async () => {
  const lower = Array.from({ length: NUMBERS }, () => openSync('/dev/null', 'r'))
  const ending = await open.serve()
  await using other = await open.snapshot.restore()
  const socket = join(memory.small.dir, 'other.sock')
  await serveNbd(other, 'memory', { socket })
  await using clients = new LineProcess(process.execPath, [CLIENT, socket, String(NUMBERS)])
  const read = async (): Promise<string> => {
    clients.tell('read')
    return await clients.line('clients', ANSWER_WITHIN_MS)
  }
  // What is opened next has these, and not the socket's once nobody listens for a second VMM.
  for (const fd of lower) closeSync(fd)
  await using vmm = await open.vmm(ending)
  await vmm.read(0, 0)
  expect(await read()).toBe('B'.repeat(NUMBERS))
  await ending.restore.close()
  expect(await read()).toBe('B'.repeat(NUMBERS))
})
