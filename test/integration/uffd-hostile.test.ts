/** Clients that say what no VMM says: they are turned away, killed if they would hang otherwise, and the VMM that comes after them is served all the same. */
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { createConnection, type Socket } from 'node:net'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { sendLingering } from '../servers/lingering.ts'
import { until } from '../servers/redis.ts'
import { randomImage } from '../small-store.ts'
import { MemoryStore, type OpenMemory, type Served } from '../uffd/serving.ts'
import type { Delivery, Lie, VmmOptions } from '../uffd/vmm.ts'

const IMAGE_PAGES = 1024
const HANDSHAKE_TIMEOUT_MS = 300
const KILLED = { code: null, signal: 'SIGKILL' }

let memory: MemoryStore
let open: OpenMemory

beforeAll(async () => {
  memory = await MemoryStore.of(randomImage(IMAGE_PAGES))
  open = await memory.open()
})

afterAll(async () => {
  await open[Symbol.asyncDispose]()
  await memory[Symbol.asyncDispose]()
})

const descriptors = async (): Promise<number> => (await readdir('/proc/self/fd')).length

async function isServed(served: Served): Promise<void> {
  await using vmm = await open.vmm(served)
  expect(await vmm.verifyAll()).toEqual({ pages: IMAGE_PAGES, wrong: 0 })
  await vmm.exit()
  expect(await served.pager.closed).toEqual({ reason: 'vmm-exit', pid: vmm.pid })
}

/** One that is turned away and killed, perhaps before it could say that it is there; then one that is served. */
async function isKilled(options: Partial<VmmOptions>): Promise<void> {
  await using served = await open.serve({ handshakeTimeoutMs: HANDSHAKE_TIMEOUT_MS })
  await using _ = await open.vmm(served, options).catch(() => undefined)
  await until(async () => served.events.length > 0)
  const [refused] = served.events
  assert(refused?.kind === 'refused' && refused.pid !== undefined)
  await until(async () => !isAlive(refused.pid!))
  await isServed(served)
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}

describe('a handshake with a userfaultfd', () => {
  it.each<Delivery>(['truncated', 'oversized', 'garbage', 'empty', 'not-array', 'nonsense'])(
    'that comes %s has its sender killed',
    async delivery => {
      await isKilled({ delivery })
    },
  )

  it.each<Lie>([
    'overlap',
    'base-unaligned',
    'base-in-kernel',
    'size-unaligned',
    'size-beyond-image',
    'size-absurd',
    'offset-unaligned',
    'offset-beyond-image',
    'offset-absurd',
    'page-size-odd',
    'page-size-absurd',
  ])('that lies (%s) has its sender killed', async lie => {
    await isKilled({ lie })
  })

  it('that tells of more than removes has its sender killed', async () => {
    await isKilled({ events: 'all' })
  })
})

describe('a handshake without a userfaultfd', () => {
  it.each<Partial<VmmOptions>>([{ delivery: 'silent' }, { descriptors: 0 }, { otherDescriptor: true }])(
    '%j is turned away',
    async options => {
      await using served = await open.serve({ handshakeTimeoutMs: HANDSHAKE_TIMEOUT_MS })
      await using vmm = await open.vmm(served, options)
      expect(await vmm.awaitHangup(10_000)).toBe(true)
      await isServed(served)
    },
  )
})

describe('a VMM', () => {
  it('whose faults lie outside of its regions is killed', async () => {
    await using served = await open.serve()
    await using vmm = await open.vmm(served, { lie: 'base-foreign' })
    await vmm.hang(0, 0)
    expect(await vmm.ended()).toEqual(KILLED)
    expect(await served.pager.closed).toMatchObject({ reason: 'killed', pid: vmm.pid })
  })

  it('finds nobody listening once another is served', async () => {
    await using served = await open.serve()
    await using vmm = await open.vmm(served)
    expect(await vmm.verify(0, 0, 10)).toMatchObject({ wrong: 0 })
    await until(async () => !existsSync(served.pager.socket))
    await expect(open.vmm(served)).rejects.toThrow()
    expect(await vmm.verifyAll()).toMatchObject({ wrong: 0 })
  })

  it('that connects several times is served once, and killed for the other', async () => {
    await using served = await open.serve()
    // It may be killed before it can say that it is ready.
    await using vmm = await open.vmm(served, { connections: 3 }).catch(() => undefined)
    if (vmm !== undefined) expect(await vmm.ended()).toEqual(KILLED)
    expect(await served.pager.closed).toMatchObject({ reason: 'vmm-exit' })
    expect(served.events.map(({ kind }) => kind)).toContain('refused')
  })
})

describe('many clients that say nothing', () => {
  it('cost a bounded number of descriptors, and keep the VMM out no longer than their deadline', async () => {
    await using served = await open.serve({ handshakeTimeoutMs: HANDSHAKE_TIMEOUT_MS })
    const before = await descriptors()
    const idle = await Promise.all(Array.from({ length: 12 }, () => connect(served.pager.socket)))
    // Their own ends, two for each that is heard, and what Node needs for itself.
    expect(await descriptors()).toBeLessThanOrEqual(before + idle.length + 2 * 8 + 4)
    await isServed(served)
    for (const socket of idle) socket.destroy()
  })
})

describe('descriptors', () => {
  it('are all closed in the end', async () => {
    const once = async (options: Partial<VmmOptions>): Promise<void> => {
      await using served = await open.serve({ handshakeTimeoutMs: HANDSHAKE_TIMEOUT_MS })
      await using _ = await open.vmm(served, { delivery: 'garbage', descriptors: 5 }).catch(() => undefined)
      await using vmm = await open.vmm(served, options)
      await vmm.verify(0, 0, 10)
      await vmm.exit()
      await served.pager.closed
    }
    await once({})
    const before = await descriptors()
    for (let i = 0; i < 5; i++) await once({ descriptors: 200 })
    expect(await descriptors()).toBeLessThanOrEqual(before)
  })
})

describe('a client that sends sockets whose end takes long', () => {
  it.each([
    ['and is turned away', ['garbage', 'more']],
    ['and hangs up', ['[', ' ', ' ']],
  ])('%s holds up nobody', async (_what, messages) => {
    await using other = await open.serve()
    await using neighbour = await open.vmm(other)
    await using served = await open.serve({ handshakeTimeoutMs: HANDSHAKE_TIMEOUT_MS })
    await using _ = await sendLingering(
      served.pager.socket,
      messages.map(text => Buffer.from(text)),
    )
    await until(async () => served.events.length > 0)
    expect(served.events[0]).toMatchObject({ kind: 'refused' })
    expect(await neighbour.verifyAll()).toEqual({ pages: IMAGE_PAGES, wrong: 0 })
  })
})

function connect(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(path, () => resolve(socket))
    socket.once('error', reject)
  })
}

describe('a VMM that has its userfaultfd block while it is served', () => {
  it('is killed; nobody else is held up', async () => {
    await using other = await open.serve()
    await using neighbour = await open.vmm(other)
    await using served = await open.serve()
    await using vmm = await open.vmm(served)
    expect(await vmm.verify(0, 0, 10)).toMatchObject({ wrong: 0 })
    await vmm.block()
    await vmm.hang(0, 500).catch(() => undefined)
    expect(await vmm.ended()).toEqual(KILLED)
    expect(await served.pager.closed).toMatchObject({ reason: 'killed', pid: vmm.pid, why: expect.stringContaining('O_NONBLOCK') })
    expect(await neighbour.verifyAll()).toEqual({ pages: IMAGE_PAGES, wrong: 0 })
  })
})
