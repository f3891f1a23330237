/** Commands that serve guests, as processes, over a store with one snapshot of three images. */
import type { ChildProcessWithoutNullStreams } from 'node:child_process'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { type Ended, Workplace } from '../cli/program.ts'
import { randomImage } from '../small-store.ts'

const MEMORY_PAGES = 600
const ROOTFS_PAGES = 300

export type Told = Readonly<Record<string, unknown>>

/** Where it runs, and what was pushed there as `base`. */
export class Pushed implements AsyncDisposable {
  readonly place: Workplace
  readonly id: string
  readonly memory: Buffer
  readonly rootfs: Buffer
  readonly state: Buffer
  readonly #serving: Serving[] = []

  private constructor(place: Workplace, id: string, images: Pick<Pushed, 'memory' | 'rootfs' | 'state'>) {
    this.place = place
    this.id = id
    this.memory = images.memory
    this.rootfs = images.rootfs
    this.state = images.state
  }

  static async create(): Promise<Pushed> {
    const place = await Workplace.create()
    // The last page of the disk is short.
    const rootfs = randomImage(ROOTFS_PAGES).subarray(0, ROOTFS_PAGES * 4096 - 1536)
    const images = { memory: randomImage(MEMORY_PAGES), rootfs, state: Buffer.from('device state') }
    for (const [name, bytes] of Object.entries(images)) await writeFile(place.path(name), bytes)
    await place.mustRun('init')
    const id = await place.mustRun('push', '--layer', 'os', '--tag', 'base', 'memory=memory', 'rootfs=rootfs', 'state=state')
    return new Pushed(place, id, images)
  }

  get overlays(): string {
    return this.place.path('overlays')
  }

  /** Starts one with `--json`; resolves when it is ready. It is killed at the latest when this is disposed of. */
  async serve(args: readonly string[], environment: Readonly<Record<string, string>> = {}): Promise<Serving> {
    const serving = this.start(args, environment)
    await serving.event('ready')
    return serving
  }

  start(args: readonly string[], environment: Readonly<Record<string, string>> = {}): Serving {
    const serving = new Serving(this.place.start([...args, '--overlay-dir', this.overlays, '--json'], environment))
    this.#serving.push(serving)
    return serving
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const serving of this.#serving) await serving[Symbol.asyncDispose]()
    await this.place[Symbol.asyncDispose]()
  }
}

/** One that was started. */
export class Serving implements AsyncDisposable {
  readonly child: ChildProcessWithoutNullStreams
  /** What it told so far. */
  readonly events: Told[] = []
  readonly ended: Promise<Ended>
  #stdout = ''
  #hasEnded = false

  constructor(child: ChildProcessWithoutNullStreams) {
    this.child = child
    child.stdout.setEncoding('utf8').on('data', (piece: string) => {
      const lines = (this.#stdout + piece).split('\n')
      this.#stdout = lines.pop()!
      this.events.push(...lines.map(line => JSON.parse(line)))
    })
    this.ended = Promise.all([text(child.stderr), once(child, 'close')]).then(([stderr]) => {
      this.#hasEnded = true
      return { code: child.exitCode, stdout: this.#stdout, stderr }
    })
  }

  get pid(): number {
    return this.child.pid!
  }

  /** The id of the restore. */
  get id(): string {
    return String(this.events.find(({ event }) => event === 'ready')?.restore)
  }

  get kinds(): unknown[] {
    return this.events.map(({ event }) => event)
  }

  /** The first of that kind, when it is told. */
  async event(kind: string): Promise<Told> {
    for (;;) {
      const found = this.events.find(({ event }) => event === kind)
      if (found !== undefined) return found
      if (this.#hasEnded) throw new Error(`it ended without ${kind}: ${(await this.ended).stderr}`)
      await Promise.race([once(this.child.stdout, 'data'), this.ended])
    }
  }

  /** Ends it as a service manager does. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<Ended> {
    this.child.kill(signal)
    return await this.ended
  }

  /** Waits for it, and kills it at once if it was not told to end. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#hasEnded) this.child.kill('SIGKILL')
    await this.ended
  }
}

export const PAGE = 4096

export function overlayOf({ overlays }: Pushed, { id }: Serving): string {
  return join(overlays, id)
}
