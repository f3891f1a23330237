/** Mounts for tests, over a store that can be made to hang or fail; and programs that use them, which run while this process goes on. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { ThawError } from '../../src/errors.ts'
import { type Mount, type MountOptions, mount } from '../../src/frontend/fuse.ts'
import { type Cache, createCache } from '../../src/open-cache.ts'
import type { Restore, RestoreEvent, RestoreOptions } from '../../src/restore.ts'
import { openStoreOver, type SnapshotStore } from '../../src/snapshot-store.ts'
import { openObjectStore } from '../../src/store/open.ts'
import type { ObjectStore } from '../../src/store.ts'
import { patchedStore } from '../patched-store.ts'
import { pieces, type SmallStore, smallStore } from '../small-store.ts'

/** What reads of the store come to. */
export class Gate {
  #opened = Promise.withResolvers<void>()
  /** Reads that came so far and were not let through. */
  waiting = 0
  code: 'NOT_FOUND' | undefined

  constructor() {
    this.open()
  }

  open(): void {
    this.code = undefined
    this.#opened.resolve()
  }

  /** Reads hang until `open`. */
  shut(): void {
    this.#opened = Promise.withResolvers()
  }

  async pass(): Promise<void> {
    this.waiting++
    await this.#opened.promise
    this.waiting--
    if (this.code !== undefined) throw new ThawError(this.code, 'not there')
  }
}

function gatedStore(inner: ObjectStore, gate: Gate): ObjectStore {
  return patchedStore(inner, {
    get: async (key, options) => {
      await gate.pass()
      return await inner.get(key, options)
    },
    getInto: async (key, target, options) => {
      await gate.pass()
      return await inner.getInto(key, target, options)
    },
  })
}

/** A store with one snapshot, opened with its engine on this thread. */
export class Served implements AsyncDisposable {
  readonly gate: Gate
  readonly events: RestoreEvent[] = []
  readonly small: SmallStore
  readonly id: string
  readonly cache: Cache
  readonly store: SnapshotStore
  #mounts = 0

  private constructor(small: SmallStore, id: string, cache: Cache, store: SnapshotStore, gate: Gate) {
    this.small = small
    this.id = id
    this.cache = cache
    this.store = store
    this.gate = gate
  }

  static async of(images: Readonly<Record<string, Buffer>>): Promise<Served> {
    const small = await smallStore()
    const sources = Object.entries(images).map(([name, bytes]) => [name, { kind: 'memory' as const, stream: pieces(bytes) }] as const)
    const { id } = await small.store.push({ layer: 'os', images: Object.fromEntries(sources) })
    const gate = new Gate()
    const cache = await createCache({ memoryBytes: 2 ** 26, thread: 'main' })
    const store = await openStoreOver(gatedStore(await openObjectStore(small.url), gate), { cache, keyring: small.keyring })
    return new Served(small, id, cache, store, gate)
  }

  async restore(options: RestoreOptions = {}): Promise<Restore> {
    const snapshot = await this.store.open(this.id)
    const overlay = { dir: join(this.small.dir, 'overlays'), ...options.overlay }
    return await snapshot.restore({ onEvent: event => this.events.push(event), ...options, overlay })
  }

  /** A folder that is not there yet. */
  folder(): string {
    return join(this.small.dir, `mount-${++this.#mounts}`)
  }

  async mount(options?: MountOptions, restoreOptions?: RestoreOptions): Promise<Mount> {
    return await mount(await this.restore(restoreOptions), this.folder(), options)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.gate.open()
    await this.store.close()
    await this.cache.close()
    await this.small[Symbol.asyncDispose]()
  }
}

export interface Ran {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: Buffer
  readonly stderr: string
}

const TIMEOUT_MS = 45_000

export interface Program {
  readonly child: ChildProcess
  readonly ended: Promise<Ran>
  /** Resolves when it has printed this. */
  said(text: string): Promise<void>
}

/** Starts a program; killed if it takes too long. */
export function start(file: string, args: readonly string[]): Program {
  const child = spawn(file, args, { stdio: ['pipe', 'pipe', 'pipe'], timeout: TIMEOUT_MS, killSignal: 'SIGKILL' })
  const out: Buffer[] = []
  let stderr = ''
  child.stdout.on('data', (bytes: Buffer) => out.push(bytes))
  child.stderr.on('data', (bytes: Buffer) => {
    stderr += String(bytes)
  })
  child.stdin.on('error', () => undefined)
  const closed = once(child, 'close') as Promise<[number | null, NodeJS.Signals | null]>
  const ended = closed.then(([code, signal]) => ({ code, signal, stdout: Buffer.concat(out), stderr }))
  const said = async (text: string): Promise<void> => {
    while (!Buffer.concat(out).includes(text)) {
      const data = await Promise.race([once(child.stdout, 'data'), closed.then(() => undefined)])
      if (data === undefined && !Buffer.concat(out).includes(text)) throw new Error(`it ended without saying ${text}: ${stderr}`)
    }
  }
  return { child, ended, said }
}

/** Debian's Python, for it has mmap, sendfile and lseek; errors end it with their number. */
export function python(code: string, ...args: readonly (string | number)[]): Program {
  return pythonWithin([], code, ...args)
}

/** As `python`, run by another program: `unshare --mount`, say. */
export function pythonWithin(within: readonly string[], code: string, ...args: readonly (string | number)[]): Program {
  const prelude = 'import os, sys, mmap, signal, errno, hashlib, random\nargs = sys.argv[1:]\n'
  const body = code.replace(/^/gm, '  ')
  const program = `${prelude}try:\n${body}\nexcept OSError as error:\n  print(errno.errorcode[error.errno], flush=True)\n  sys.exit(9)\n`
  const [file, ...given] = [...within, '/usr/bin/python3', '-c', program, ...args.map(String)]
  return start(file!, given)
}

/** What it printed. */
export async function told(program: Program): Promise<string> {
  const { stdout, stderr, code, signal } = await program.ended
  if (stderr !== '') throw new Error(`${stderr} (${code ?? signal})`)
  return stdout.toString().trim()
}

export async function isMounted(path: string): Promise<boolean> {
  return (await readFile('/proc/self/mountinfo', 'utf8')).split('\n').some(line => line.split(' ')[4] === path)
}

/** Waits until it is so; the test's own time is the limit. */
export async function until(isSo: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await isSo())) await new Promise(resolve => setTimeout(resolve, 10))
}
