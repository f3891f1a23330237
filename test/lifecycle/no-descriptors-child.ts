/**
 * Starts and ends front ends in a process that may open so many more files, and prints for each how the start went and what of it was left. Its own process, because the limit is
 * of a whole one.
 */
import { execFileSync } from 'node:child_process'
import { closeSync, mkdirSync, openSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createCache, isThawError, mount, openStore, type Restore, serveNbd, serveUffd } from '../../src/index.ts'
import { pieces, smallStore } from '../small-store.ts'

const FREE = [0, 1, 2, 4, 12]

await using small = await smallStore()
const stream = pieces(Buffer.alloc(2 ** 18, 'a'))
const { id } = await small.store.push({ layer: 'os', images: { memory: { stream } } })
const cache = await createCache({ memoryBytes: 2 ** 24, pagers: { threads: 1 } })
const store = await openStore(small.url, { keyring: small.keyring, cache })
const snapshot = await store.open(id)
const folder = join(small.dir, 'place')
mkdirSync(folder)
const begin = {
  fuse: (restore: Restore) => mount(restore, join(folder, 'mount'), { writable: true }),
  nbd: (restore: Restore) => serveNbd(restore, 'memory', { socket: join(folder, 'nbd'), writable: true }),
  uffd: (restore: Restore) => serveUffd(restore, 'memory', { socket: join(folder, 'uffd') }),
}
type Kind = keyof typeof begin
const KINDS: readonly Kind[] = ['nbd', 'uffd', 'fuse']

// What is started once.
for (const kind of KINDS) await round(kind)
for (const kind of KINDS) for (const free of FREE) console.log(JSON.stringify({ kind, free, ...(await tried(kind, free)) }))
await store.close()
await cache.close()

async function round(kind: Kind): Promise<void> {
  await using restore = await snapshot.restore({ overlay: { dir: join(small.dir, 'overlays') } })
  await begin[kind](restore)
}

async function tried(kind: Kind, free: number): Promise<{ readonly outcome: string; readonly left: unknown }> {
  const before = openFiles()
  const fillers = fill()
  for (let count = 0; count < free; count++) closeSync(fillers.pop()!)
  const outcome = await round(kind).then(
    () => 'served',
    error => (isThawError(error) ? error.code : String(error)),
  )
  for (const fd of fillers) closeSync(fd)
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8').split('\n')
  return { outcome, left: [openFiles() - before, ...readdirSync(folder), ...mounts.filter(line => line.includes(folder))] }
}

function openFiles(): number {
  return readdirSync('/proc/self/fd').length
}

/** Opens as many files as there may be. */
function fill(): number[] {
  const limit = Math.max(...readdirSync('/proc/self/fd').map(Number)) + 32
  execFileSync('prlimit', ['--pid', String(process.pid), `--nofile=${limit}:`])
  const fds: number[] = []
  try {
    for (;;) fds.push(openSync('/dev/null', 'r'))
  } catch {
    return fds
  }
}
