/** A snapshot with a disk that is served over NBD, and programs that are its clients. */
import { execFile } from 'node:child_process'
import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type NbdOptions, type NbdServer, serveNbd } from '../../src/frontend/nbd.ts'
import {
  type Cache,
  createCache,
  openStore,
  type Restore,
  type RestoreEvent,
  type RestoreOptions,
  type Snapshot,
  type SnapshotStore,
} from '../../src/index.ts'
import { randomImage, type SmallStore, smallStore } from '../small-store.ts'

const CLIENT_TIMEOUT_MS = 60_000
const OUTPUT_BYTES_MAX = 64 * 2 ** 20

export interface ServedDisk extends AsyncDisposable {
  readonly dir: string
  /** Of the store. */
  readonly url: string
  /** What was pushed as image `rootfs`. */
  readonly image: Buffer
  /** A file with the same. */
  readonly file: string
  readonly snapshot: Snapshot
  restore(options?: RestoreOptions): Promise<{ readonly restore: Restore; readonly events: RestoreEvent[] }>
}

/** @param pages of the disk, whose last one is short */
export async function servedDisk(pages: number): Promise<ServedDisk> {
  const small: SmallStore = await smallStore()
  const image = randomImage(pages).subarray(0, pages * 4096 - 512)
  const file = join(small.dir, 'rootfs.img')
  await writeFile(file, image)
  const { id } = await small.store.push({
    layer: 'os',
    images: { rootfs: { kind: 'disk', path: file } },
  })
  const cache: Cache = await createCache({ memoryBytes: 64 * 2 ** 20 })
  const store: SnapshotStore = await openStore(small.url, { keyring: small.keyring, cache })
  const snapshot = await store.open(id)
  return {
    dir: small.dir,
    url: small.url,
    image,
    file,
    snapshot,
    async restore(options) {
      const events: RestoreEvent[] = []
      return {
        events,
        restore: await snapshot.restore({
          overlay: { dir: join(small.dir, 'overlays') },
          onEvent: event => events.push(event),
          ...options,
        }),
      }
    },
    async [Symbol.asyncDispose]() {
      await store.close()
      await cache.close()
      await small[Symbol.asyncDispose]()
      await rm(small.dir, { recursive: true, force: true })
    },
  }
}

let sockets = 0

/** Serves the disk on a Unix socket of its own, if it is not said otherwise. */
export function serveDisk({ dir }: ServedDisk, restore: Restore, options: NbdOptions = {}): Promise<NbdServer> {
  const socket = options.listen === undefined ? join(dir, `nbd-${++sockets}.sock`) : undefined
  return serveNbd(restore, 'rootfs', { socket, ...options })
}

export interface Ran {
  readonly code: number
  readonly output: string
  readonly errors: string
}

/** Runs a client to its end. */
export function run(program: string, args: readonly string[], env: NodeJS.ProcessEnv = process.env): Promise<Ran> {
  return new Promise(resolve => {
    execFile(program, [...args], { timeout: CLIENT_TIMEOUT_MS, maxBuffer: OUTPUT_BYTES_MAX, env }, (error, output, errors) => {
      const code = error === null ? 0 : typeof error.code === 'number' ? error.code : -1
      resolve({ code, output, errors })
    })
  })
}

/** As `run`; what it printed, if it succeeded. */
export async function runWell(program: string, args: readonly string[], env?: NodeJS.ProcessEnv): Promise<string> {
  const { code, output, errors } = await run(program, args, env)
  if (code !== 0) throw new Error(`${program} ${args.join(' ')}: exit ${code}\n${errors}\n${output}`)
  return output
}
