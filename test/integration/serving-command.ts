/** `thaw mount`, `thaw serve` and `thaw restore` for tests that have them serve real guests: they must end as cleanly as they serve. */
import type { Workplace } from '../cli/program.ts'
import { Serving } from './restore-commands.ts'

/** What `thaw stats --json` says of one image of a restore, as far as tests look at it. */
export interface ImageStats {
  readonly name: string
  readonly failures: number
  readonly writtenBytes: number
  readonly chunks: { readonly memory: number; readonly disk: number; readonly l2: number; readonly origin: number }
}

interface Stats {
  readonly processes: readonly { readonly restores: readonly { readonly id: string; readonly images: readonly ImageStats[] }[] }[]
}

/** One restore that is served by a process of its own. */
export class ServingCommand implements AsyncDisposable {
  readonly #place: Workplace
  readonly #serving: Serving

  private constructor(place: Workplace, serving: Serving) {
    this.#place = place
    this.#serving = serving
  }

  /** Resolves when it is ready; throws with its words if it ends before. Overlays lie in the place's folder. */
  static async start(place: Workplace, ...args: string[]): Promise<ServingCommand> {
    const serving = new Serving(place.start([...args, '--overlay-dir', 'overlays', '--json']))
    await serving.event('ready')
    return new ServingCommand(place, serving)
  }

  /** The restore's id. */
  get restore(): string {
    return this.#serving.id
  }

  /** What `thaw stats` says of an image. */
  async stats(image: string): Promise<ImageStats> {
    const { processes }: Stats = JSON.parse(await this.#place.mustRun('stats', '--json'))
    const restores = processes.flatMap(({ restores }) => restores)
    const found = restores.find(({ id }) => id === this.restore)?.images.find(({ name }) => name === image)
    if (found === undefined) throw new Error(`thaw stats says nothing of ${image} in restore ${this.restore}`)
    return found
  }

  /** Ends it as a service manager does. Throws unless it ends cleanly. */
  async [Symbol.asyncDispose](): Promise<void> {
    const { code, stderr } = await this.#serving.stop()
    if (code !== 0) throw new Error(`restore ${this.restore} ended with ${code}: ${stderr}`)
  }
}
