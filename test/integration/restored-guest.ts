/**
 * A guest in QEMU that runs from a restore: the restore in a process of its own, QEMU on what that serves. Closed in the order that a restore wants: the VMM first.
 */
import { createHash } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { type GuestCapture, resumeMachine } from '../../bench/guest/capture.ts'
import type { Machine } from '../../bench/guest/machine.ts'
import type { Workplace } from '../cli/program.ts'
import { ServingCommand } from './serving-command.ts'

/** Starts a VMM without huge-page read-ahead. */
export const THAW_EXEC: readonly string[] = [process.execPath, fileURLToPath(new URL('../../src/cli.ts', import.meta.url)), 'exec', '--']

export interface GuestOptions {
  readonly capture: GuestCapture
  /** Arguments of the command that mounts the images at `dir`. */
  readonly command: readonly string[]
  /** Where it mounts them, within the place. */
  readonly dir: string
  /** Default: `thaw exec`. Empty: QEMU as it is. */
  readonly launcher?: readonly string[]
  /** As QEMU names it. */
  readonly disk?: string
}

export class RestoredGuest implements AsyncDisposable {
  readonly machine: Machine
  readonly serving: ServingCommand
  /** The folder of the mount. */
  readonly dir: string
  readonly #place: Workplace

  private constructor(machine: Machine, serving: ServingCommand, dir: string, place: Workplace) {
    this.machine = machine
    this.serving = serving
    this.dir = dir
    this.#place = place
  }

  /** Resolves when the guest runs on from where it was saved. */
  static async resume(place: Workplace, { capture, command, dir, launcher = THAW_EXEC, disk }: GuestOptions): Promise<RestoredGuest> {
    const serving = await ServingCommand.start(place, ...command)
    try {
      const images = { memory: place.path(`${dir}/memory`), state: place.path(`${dir}/state`) }
      const machine = await resumeMachine({ dir: capture.dir, ...images, launcher, ...(disk !== undefined && { disk }) })
      return new RestoredGuest(machine, serving, place.path(dir), place)
    } catch (error) {
      await serving[Symbol.asyncDispose]().catch(() => undefined)
      throw error
    }
  }

  /** `thaw mount REF DIR --writable`, and QEMU on it. */
  static mounted(
    place: Workplace,
    ref: string,
    dir: string,
    options: Pick<GuestOptions, 'capture' | 'launcher' | 'disk'>,
  ): Promise<RestoredGuest> {
    return RestoredGuest.resume(place, { ...options, command: ['mount', ref, dir, '--writable'], dir })
  }

  /** Stops the guest, writes the rest of its machine to a file, and ends QEMU: then everything the guest wrote is in the overlay. */
  async save(stateFile: string): Promise<void> {
    await this.machine.save(this.#place.path(stateFile))
    await this.machine.close()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.machine.close()
    await this.serving[Symbol.asyncDispose]()
  }
}

/** What the function `table` answers, worked out here. */
export function answerTo(argument: string): string {
  return createHash('sha256').update(argument).digest('hex')
}
