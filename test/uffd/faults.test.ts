/**
 * Faults of a real VMM, served by hand: what the kernel is asked for where a VMM that is killed at once,
 * or a race that hardly ever happens, would hide it.
 */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { ABSENT } from '../../src/arena.ts'
import { listenAt } from '../../src/frontend/socket.ts'
import { type FaultFailure, Faults } from '../../src/frontend/uffd/faults.ts'
import { Userfaultfd } from '../../src/frontend/uffd/kernel.ts'
import { Regions } from '../../src/frontend/uffd/regions.ts'
import type { ChunkWaiter, ServedFaults, ServedImage } from '../../src/pager.ts'
import { DescriptorMessages } from '../../src/util/descriptor-message.ts'
import { ERRNO, loadNative, type Native } from '../../src/util/native.ts'
import { until } from '../servers/redis.ts'
import { randomImage } from '../small-store.ts'
import { MemoryStore } from './serving.ts'
import { startVmm, type Vmm } from './vmm.ts'

const PAGE = 4096
const PAGES = 16
const CHUNK = 3
const SLOT = 7
/** si_code of a SIGBUS at a poisoned page (<asm-generic/siginfo.h>): the second where the kernel knows of no bad memory. */
const BUS_CODES = [4, 2]
const UFFDIO_COPY = 0xc028aa03
const UFFDIO_COPY_MODE_DONTWAKE = 1

let native: Native
let memory: MemoryStore
let vmm: Vmm
let uffd: Userfaultfd
let address: number
let faults: Faults
/** What the faults wait for, and whether it is there. */
let waiter: ChunkWaiter | undefined
let slot: number
let failures: FaultFailure[]
let undo: (() => void)[]

function unused(): never {
  assert.fail('not for this')
}

/** All pages lie in one chunk. */
function pagesOf(image: Buffer): ServedFaults {
  const at = native.addressOf(image)
  return {
    reader: {
      locate: page => ({ chunk: CHUNK, first: page, count: PAGES - page }),
      pin: () => slot,
      unpin: () => undefined,
    },
    addressOf: (_slot, page) => at + page * PAGE,
    want: (_chunk, who) => {
      waiter = who
    },
    forget: () => undefined,
    markZero: () => undefined,
    countHit: () => undefined,
    countZeros: () => undefined,
    countChunk: () => undefined,
    countMiss: () => undefined,
    countFailure: () => undefined,
  }
}

async function accept(listener: number): Promise<{ readonly address: number; readonly userfaultfd: number }> {
  let socket = -1
  await until(async () => {
    socket = native.accept(listener, 0)
    return socket >= 0
  })
  undo.push(() => native.close(socket))
  const message = new DescriptorMessages(native, socket, { bytesMax: 65_536 }).receive()
  assert(typeof message === 'object')
  const [userfaultfd] = message.fds
  return { address: JSON.parse(String(message.bytes))[0].base_host_virt_addr, userfaultfd: userfaultfd! }
}

beforeEach(async () => {
  native = await loadNative('this test')
  undo = []
  failures = []
  waiter = undefined
  slot = ABSENT
  const image = Buffer.from(new Uint8Array(randomImage(PAGES)).buffer)
  memory = await MemoryStore.of(image)
  const path = join(memory.small.dir, 'faults.sock')
  const { fd } = await listenAt(native, path, { takesDescriptors: true })
  undo.push(() => native.close(fd))
  const accepted = accept(fd)
  vmm = await startVmm({ socket: path, image: memory.file, regions: [{ sizeBytes: image.length, offsetBytes: 0 }] })
  const { userfaultfd, ...rest } = await accepted
  address = rest.address
  undo.push(() => native.close(userfaultfd))
  uffd = new Userfaultfd(native, userfaultfd)
  faults = new Faults({
    native,
    uffd,
    image: {} as ServedImage,
    pages: pagesOf(image),
    regions: new Regions([{ address, sizeBytes: image.length, offset: 0, pageBytes: PAGE }]),
    loop: { watch: unused, rewatch: unused, unwatch: unused, after: () => () => undefined },
    neighbours: 0,
    onFailure: failure => failures.push(failure),
    onBroken: error => {
      throw error
    },
  })
  undo.push(() => faults.close())
})

afterEach(async () => {
  await vmm[Symbol.asyncDispose]()
  for (const step of undo.reverse()) step()
  await memory[Symbol.asyncDispose]()
})

/** Where the next fault is. */
async function nextFault(): Promise<number> {
  let count = 0
  await until(async () => {
    count = uffd.read()
    return count !== -ERRNO.EAGAIN
  })
  expect(count).toBe(1)
  return uffd.faultOf(0)
}

it('poison a page that cannot be had before anybody hears of it: the kernel gives nothing in its place', async () => {
  const poisoned: number[] = []
  const poison = uffd.poison.bind(uffd)
  uffd.poison = (to, sizeBytes) => {
    expect(failures).toEqual([])
    poisoned.push(to)
    return poison(to, sizeBytes)
  }
  const touching = vmm.expectBus(0, 5)
  faults.serve(await nextFault())
  waiter!.onChunkFailed(CHUNK, 'CORRUPT')
  expect(poisoned).toEqual([address + 5 * PAGE])
  expect(failures).toMatchObject([{ page: 5, code: 'CORRUPT' }])
  expect(BUS_CODES).toContain(await touching)
})

it('wake who waits for a page that came by another way', async () => {
  const touching = vmm.read(0, 5)
  const fault = await nextFault()
  // Installed, and nobody woken.
  const words = new BigUint64Array([BigInt(fault), BigInt(native.addressOf(memory.image) + 5 * PAGE), BigInt(PAGE), 1n, 0n])
  assert(words[3] === BigInt(UFFDIO_COPY_MODE_DONTWAKE))
  expect(native.ioctl(uffd.fd, UFFDIO_COPY, new Uint8Array(words.buffer))).toBe(0)
  slot = SLOT
  faults.serve(fault)
  expect(await touching).toMatchObject({ right: true })
  expect(failures).toEqual([])
})
