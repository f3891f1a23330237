/**
 * Restores of two tenants that come and go by all front ends in a random order: closed while they are started, while a client reads, by themselves or with their pager. The order
 * follows from the seed; how the steps fall together does not. Whoever is served reads its own tenant's bytes or an error, a client that is never closed reads all along, and in
 * the end nothing is left.
 */
import { existsSync } from 'node:fs'
import { readdir, readFile, readlink } from 'node:fs/promises'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { expect, vi } from 'vitest'
import { mount } from '../../src/frontend/fuse.ts'
import { serveNbd } from '../../src/frontend/nbd.ts'
import { serveUffd } from '../../src/frontend/uffd.ts'
import { isThawError, openStore } from '../../src/index.ts'
import { type Cache, createCache } from '../../src/open-cache.ts'
import { PagerHandle } from '../../src/pager/handle.ts'
import type { Restore } from '../../src/restore.ts'
import type { Snapshot } from '../../src/snapshot.ts'
import { randomFrom } from '../../src/util/random.ts'
import { NbdClient } from '../nbd/socket-client.ts'
import { pieces, type SmallStore, smallStore } from '../small-store.ts'

export interface SoakOptions {
  readonly seed: number
  readonly rounds: number
}

export interface Soaked {
  /** What clients read, and what became of starts: how often each. */
  readonly counts: Readonly<Record<string, number>>
  readonly pagersKilled: number
  readonly controlReads: number
}

const IMAGE_BYTES = 2 ** 20
const READ_BYTES = 8192
/** Rounds at a time. */
const LANES = 4
/** Rounds before anything is counted. */
const WARM_UP = 26
/** Of so many rounds: a mount, and a pager that is killed. */
const MOUNT_EVERY = 12
const KILL_EVERY = 40
/** Longest wait before a round is closed, in turns of the event loop: longer than a start takes. */
const TURNS_MAX = 300

export async function soak({ seed, rounds }: SoakOptions): Promise<Soaked> {
  const random = randomFrom(seed)
  const upTo = (count: number): number => Math.floor(random() * count)
  const counts: Record<string, number> = {}
  const count = (what: string): void => {
    counts[what] = (counts[what] ?? 0) + 1
  }
  const pagers = startedPagers()
  const [a, b] = await Promise.all([tenantStore('A'), tenantStore('B')])
  const cache = await createCache({ memoryBytes: 2 ** 25, pagers: { threads: 2 } })
  const opened = await Promise.all([a, b].map(({ small }) => openStore(small.url, { keyring: small.keyring, cache })))
  const tenants = await Promise.all(
    [a, b].map(async ({ letter, small, id }, index) => ({ letter, small, snapshot: await opened[index]!.open(id) })),
  )
  const control = await startControl(tenants[0]!.snapshot, a.small.dir)
  const controlPager = pagers.find(({ restores }) => restores > 0)!
  const round = async (number: number): Promise<void> => {
    const { letter, small, snapshot } = tenants[upTo(2)]!
    const kind = number % MOUNT_EVERY === 0 ? 'fuse' : random() < 0.6 ? 'nbd' : 'uffd'
    const path = join(small.dir, `${number}`)
    const restore = await snapshot.restore({ overlay: { dir: join(small.dir, 'overlays') } })
    const isWritable = random() < 0.5
    const starting = begin(restore, kind, path, isWritable).then(
      () => count(`${kind} served`),
      error => count(`${kind} ${isThawError(error) ? error.code : String(error)}`),
    )
    let isOver = false
    const reading =
      random() < 0.5 && kind === 'nbd'
        ? readOnce(path, letter, () => isOver).then(what => count(`a client of its own: ${what}`))
        : undefined
    for (let turns = upTo(TURNS_MAX); turns > 0; turns--) await turn()
    if (random() < 0.3) await starting
    if (number % KILL_EVERY === KILL_EVERY - 1) await killOne(pagers, controlPager)
    await restore.close()
    isOver = true
    await Promise.all([starting, reading])
    expect(existsSync(path), `${kind} leaves its file`).toBe(false)
  }
  try {
    // What is started once: both pagers, the guard, code.
    for (let number = 0; number < WARM_UP; number++) await round(number)
    await killOne(pagers, controlPager)
    const before = await leftovers(cache, pagers)
    let next = 1
    const lane = async (): Promise<void> => {
      while (next <= rounds) await round(WARM_UP + next++)
    }
    await Promise.all(Array.from({ length: LANES }, lane))
    await expect.poll(() => leftovers(cache, pagers), { timeout: 20_000 }).toEqual(before)
    await control.stop()
    return { counts, pagersKilled: Math.floor(rounds / KILL_EVERY), controlReads: control.reads }
  } finally {
    for (const store of opened) await store.close()
    await cache.close()
    await Promise.all([a, b].map(({ small }) => small[Symbol.asyncDispose]()))
    vi.restoreAllMocks()
  }
}

async function tenantStore(letter: string): Promise<{ readonly letter: string; readonly small: SmallStore; readonly id: string }> {
  const small = await smallStore()
  const stream = (): AsyncGenerator<Uint8Array> => pieces(Buffer.alloc(IMAGE_BYTES, letter))
  const { id } = await small.store.push({
    layer: 'os',
    images: { memory: { stream: stream() }, rootfs: { kind: 'disk', stream: stream() } },
  })
  return { letter, small, id }
}

async function begin(restore: Restore, kind: 'nbd' | 'uffd' | 'fuse', path: string, writable: boolean): Promise<void> {
  if (kind === 'nbd') await serveNbd(restore, 'rootfs', { socket: path, writable })
  else if (kind === 'uffd') await serveUffd(restore, 'memory', { socket: path })
  else await mount(restore, path, { writable })
}

/** All that are started from now on. */
function startedPagers(): PagerHandle[] {
  const pagers: PagerHandle[] = []
  const { start } = PagerHandle
  vi.spyOn(PagerHandle, 'start').mockImplementation(async (...args) => {
    const pager = await start.apply(PagerHandle, args)
    pagers.push(pager)
    return pager
  })
  return pagers
}

function isIdle(controlPager: PagerHandle): (pager: PagerHandle) => boolean {
  return pager => pager !== controlPager && pager.isAlive
}

async function killOne(pagers: readonly PagerHandle[], controlPager: PagerHandle): Promise<void> {
  await pagers.find(isIdle(controlPager))?.terminate()
}

/** A client that is never closed. It fails with the first byte that is not its own. */
async function startControl(snapshot: Snapshot, dir: string): Promise<{ readonly reads: number; stop(): Promise<void> }> {
  const restore = await snapshot.restore()
  const socket = join(dir, 'control')
  const server = await serveNbd(restore, 'rootfs', { socket })
  const client = await NbdClient.connect(socket)
  let isOver = false
  const control = { reads: 0, stop }
  const reading = (async () => {
    for (; !isOver; control.reads++) {
      expect(await client.read((control.reads * READ_BYTES) % IMAGE_BYTES, READ_BYTES)).toBe('A')
      await turn()
    }
  })()
  // Whoever stops it hears of it.
  reading.catch(() => undefined)
  async function stop(): Promise<void> {
    isOver = true
    await reading
    expect(server.connections).toBe(1)
    client.close()
    await restore.close()
  }
  return control
}

/** @returns the letter that it read, which must be its own, or that there was none */
async function readOnce(path: string, letter: string, isOver: () => boolean): Promise<string> {
  let client: NbdClient | undefined
  try {
    while (!isOver() && !existsSync(path)) await turn()
    client = await NbdClient.connect(path)
    const read = await client.read(0, READ_BYTES)
    if (read !== letter) throw new Error(`a client of tenant ${letter} read ${read}`)
    return 'its bytes'
  } catch (error) {
    if (error instanceof Error && error.message.startsWith('a client of tenant')) throw error
    return 'an error'
  } finally {
    client?.close()
  }
}

/** What a process could leave behind. Pagers that died are replaced first. */
async function leftovers(cache: Cache, pagers: readonly PagerHandle[]): Promise<Record<string, number>> {
  const paged = await cache.pagers.open(1000, () => [])
  await paged.end()
  const fds = await readdir('/proc/self/fd')
  const targets = await Promise.all(fds.map(fd => readlink(`/proc/self/fd/${fd}`).catch(() => '')))
  const kinds = targets.map(target => target.replace(/:?\[\d+\]$/, '').replace(/^\/.*$/, 'file'))
  const mounts = (await readFile('/proc/self/mountinfo', 'utf8')).split('\n').filter(line => line.includes('fuse.thaw'))
  return {
    ...Object.fromEntries(
      [...new Set(kinds)].filter(kind => kind !== '').map(kind => [kind, kinds.filter(other => other === kind).length]),
    ),
    threads: (await readdir('/proc/self/task')).length,
    mounts: mounts.length,
    pagers: pagers.filter(({ isAlive }) => isAlive).length,
    restores: pagers.reduce((sum, { restores, isAlive }) => sum + (isAlive ? restores : 0), 0),
  }
}
