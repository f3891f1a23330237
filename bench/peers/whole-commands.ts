/** Contestants of the comparisons: each run of one is a whole command on a store that is fresh for it, and leaves nothing behind. */
import { cp, mkdir, mkdtemp, readdir, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { Bench, Contestant } from '../harness.ts'
import { type Command, type Measured, measure } from './command.ts'
import { sha256Of } from './inputs.ts'
import type { Tool } from './tools.ts'

/** An image that is, or will be, in a store. */
export interface Pushed {
  readonly name: string
  readonly image: string
  readonly parent?: string
}

/** Where stores lie, and whether the disk comes to rest before each measurement. */
export type Place = Pick<Bench, 'dir' | 'signal' | 'smoke'>

/** A folder with a new store that holds these images; each sees those before it. */
export async function makeStore(tool: Tool, pushed: readonly Pushed[], { dir, signal }: Place): Promise<string> {
  const home = await mkdtemp(join(dir, `${tool.name}-`))
  for (const command of tool.init(home)) await measure(command, signal)
  for (const { name, image, parent } of pushed) await measure(tool.push(home, name, image, parent), signal)
  return home
}

/** Pushes into a copy of `template` every time. */
export function pushing(name: string, tool: Tool, template: string, pushed: Pushed, place: Place): Contestant {
  return {
    name,
    run: () =>
      inFolder(place, async folder => {
        const home = join(folder, 'home')
        await cp(template, home, { recursive: true })
        return await measureSettled(tool.push(home, pushed.name, pushed.image, pushed.parent), place)
      }),
  }
}

/** Pulls from `home` into an empty folder every time, and checks that the bytes are the image's. */
export function pulling(tool: Tool, home: string, { name, image }: Pushed, sha256: string, place: Place): Contestant {
  return {
    name: tool.name,
    run: () =>
      inFolder(place, async folder => {
        const result = await measureSettled(tool.pull(home, name, image, folder), place)
        const found = await sha256Of(tool.pulledPath(image, folder))
        if (found !== sha256) throw new Error(`${tool.name} pulled other bytes than were pushed: ${found}, not ${sha256}`)
        return result
      }),
  }
}

/** Nothing that others wrote is left for this command to wait for when it syncs. */
async function measureSettled(command: Command, { signal, smoke }: Place): Promise<Measured> {
  if (!smoke) await measure({ argv: ['sync'] }, signal)
  return await measure(command, signal)
}

async function inFolder<T>({ dir }: Place, work: (folder: string) => Promise<T>): Promise<T> {
  const folder = join(dir, 'run')
  await mkdir(folder)
  try {
    return await work(folder)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

/** Lengths of all files below a folder, added up. */
export async function bytesBelow(folder: string): Promise<number> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  const files = entries.filter(entry => entry.isFile())
  const sizes = await Promise.all(files.map(async ({ parentPath, name }) => (await stat(join(parentPath, name))).size))
  return sizes.reduce((sum, size) => sum + size, 0)
}
