/**
 * Captures a real guest in three stages and resumes what was captured. The stages are one machine's memory at three moments, so they
 * are an os, a runtime and a function snapshot as a platform takes them: 145 MiB of pages, then 21 MiB and 15 MiB changed.
 *
 * A capture is a folder that describes itself: os, rt and fn as `.img` (memory, sparse) and `.state` (the rest of the machine),
 * `initrd.gz`, `disk.img` if the guest has a disk, and `guest.json`, which a resume needs because the resuming machine must be built as the captured one was.
 */
import { execFile } from 'node:child_process'
import { mkdir, open, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { buildInitrd } from './initrd.ts'
import { Machine, type MachineOptions } from './machine.ts'
import type { GuestFunction } from './programs.ts'
import { requireQemu } from './qemu.ts'
import { within } from './within.ts'

/** Operating system booted; runtime started; function loaded. */
export const STAGES = ['os', 'rt', 'fn'] as const
export type Stage = (typeof STAGES)[number]

/** One path per stage. */
export type StagePaths = Readonly<Record<Stage, string>>

export interface StageDone {
  readonly stage: Stage
  /** From the end of the stage before until the guest was ready in this one; copying is not counted. */
  readonly elapsedMs: number
}

export interface CaptureOptions {
  /** Made if it is not there; files of an earlier capture are replaced. */
  readonly dir: string
  /** The guest's memory, 512 by default; at least 256, or the initrd does not fit. */
  readonly sizeMiB?: number
  readonly function?: GuestFunction
  /** Gives the guest an empty disk of this size, left as `disk.img`; none by default. */
  readonly diskMiB?: number
  readonly signal?: AbortSignal | undefined
  readonly onStage?: ((done: StageDone) => void) | undefined
}

export interface GuestCapture {
  readonly dir: string
  readonly sizeMiB: number
  readonly function: GuestFunction
  /** 0 is none. A guest captured with a disk must be resumed with one, and only such a guest. */
  readonly diskMiB: number
  readonly kernel: string
  readonly images: StagePaths
  readonly states: StagePaths
}

export const DEFAULT_SIZE_MIB = 512
/** The generation of every captured machine, so that equal inputs make equal pages; no resume has it unless it asks for it. */
export const CAPTURED_GENERATION = '7468a770-0000-4000-8000-000000000001'
const COPY_TIMEOUT_MS = 120_000
/** A guest that has just answered still writes for a moment: logs, timers, freed pages. */
const SETTLE_MS = 500

/** Boots a guest and leaves its three snapshots in `dir`; about 12 s. Throws UNSUPPORTED, TIMEOUT, UNAVAILABLE. */
export async function captureGuest(options: CaptureOptions): Promise<GuestCapture> {
  const { dir, sizeMiB = DEFAULT_SIZE_MIB, function: name = 'table', diskMiB = 0, signal, onStage } = options
  const parts = requireQemu()
  const made = { sizeMiB, function: name, diskMiB, kernel: parts.kernel }
  const capture = describe(dir, made)
  const memory = join(dir, 'live.img')
  const initrd = initrdOf(dir)
  await mkdir(dir, { recursive: true })
  // A resume trusts guest.json, so it goes first and comes last.
  await rm(join(dir, 'guest.json'), { force: true })
  await rm(memory, { force: true })
  await buildInitrd(initrd, parts, signal)
  const disk = diskMiB > 0 ? await emptyDisk(dir, diskMiB) : undefined
  const generation = CAPTURED_GENERATION
  try {
    await using machine = await Machine.start({ qemu: parts.qemu, kernel: parts.kernel, initrd, memory, sizeMiB, generation, disk, signal })
    const reach: Readonly<Record<Stage, () => Promise<unknown>>> = { os: () => machine.until('READY'), ...entering(machine, name) }
    for (const stage of STAGES) {
      const started = performance.now()
      await reach[stage]()
      onStage?.({ stage, elapsedMs: performance.now() - started })
      await sleep(SETTLE_MS, undefined, { signal })
      await machine.save(capture.states[stage])
      await copySparse(memory, capture.images[stage], signal)
      await machine.proceed()
    }
  } finally {
    await rm(memory, { force: true })
  }
  await writeFile(join(dir, 'guest.json'), JSON.stringify(made))
  return capture
}

export interface ResumeOptions {
  /** The folder of the capture. */
  readonly dir: string
  /** Which snapshot the memory is of; `fn` by default. */
  readonly stage?: Stage
  /** The memory to resume from: any file that can be mapped shared. The guest writes to it, so never the capture's own image. */
  readonly memory: string
  /** The rest of the machine; by default that of the capture's stage. */
  readonly state?: string
  /** As in `MachineOptions`: a fresh one by default. */
  readonly generation?: string
  /** As in `MachineOptions`; for a guest that was captured with a disk, and only for it. */
  readonly disk?: string
  readonly launcher?: MachineOptions['launcher']
  readonly signal?: AbortSignal | undefined
}

export interface Resumed {
  readonly answer: string
  /** From the start of QEMU until the guest ran on from where it was saved. */
  readonly resumedMs: number
  /** From the start of QEMU until the function had answered. */
  readonly answeredMs: number
}

/** Resumes a captured guest, asks its function once and ends it. A guest of an earlier stage goes through the later ones first. */
export async function resumeGuest(options: ResumeOptions & { /** '7' by default. */ readonly argument?: string }): Promise<Resumed> {
  const { dir, stage = 'fn', argument = '7' } = options
  const started = performance.now()
  await using machine = await resumeMachine(options)
  const resumedMs = performance.now() - started
  const steps = entering(machine, (await readCapture(dir)).function)
  if (stage === 'os') await steps.rt()
  if (stage !== 'fn') await steps.fn()
  const answer = await machine.request('call', argument)
  return { answer, resumedMs, answeredMs: performance.now() - started }
}

/**
 * Resumes a captured guest and lets it run: for who wants to ask it more than once. The caller closes the machine. Throws TypeError when
 * a disk is given to a guest without one or the other way round; UNSUPPORTED, TIMEOUT, UNAVAILABLE.
 */
export async function resumeMachine(options: ResumeOptions): Promise<Machine> {
  const { dir, stage = 'fn', memory, generation, disk, launcher = [], signal } = options
  const { qemu } = requireQemu()
  const { kernel, sizeMiB, diskMiB, states } = await readCapture(dir)
  const hasDisk = diskMiB > 0
  if ((disk !== undefined) !== hasDisk) throw new TypeError(`the guest in ${dir} was captured ${hasDisk ? 'with' : 'without'} a disk`)
  const parts = { qemu, kernel, initrd: initrdOf(dir), memory, sizeMiB, generation, disk }
  const machine = await Machine.start({ ...parts, incoming: true, launcher, signal })
  try {
    await machine.resume(options.state ?? states[stage])
    await machine.proceed()
    return machine
  } catch (error) {
    await machine.close()
    throw error
  }
}

/** The finished capture in `dir`. Throws as `readFile` does if there is none. */
export async function readCapture(dir: string): Promise<GuestCapture> {
  return describe(dir, JSON.parse(await readFile(join(dir, 'guest.json'), 'utf8')))
}

/** Copies a file; runs of zeroes become holes. */
export async function copySparse(from: string, to: string, signal?: AbortSignal): Promise<void> {
  await within(`copying ${from}`, COPY_TIMEOUT_MS, signal, signal => promisify(execFile)('cp', ['--sparse=always', from, to], { signal }))
}

function describe(dir: string, made: Pick<GuestCapture, 'sizeMiB' | 'function' | 'diskMiB' | 'kernel'>): GuestCapture {
  return { dir, ...made, images: stagePaths(dir, 'img'), states: stagePaths(dir, 'state') }
}

/** The names that every capture, of a guest or of a process, gives its files. */
export function stagePaths(dir: string, extension: string): StagePaths {
  return { os: join(dir, `os.${extension}`), rt: join(dir, `rt.${extension}`), fn: join(dir, `fn.${extension}`) }
}

async function emptyDisk(dir: string, sizeMiB: number): Promise<string> {
  const file = join(dir, 'disk.img')
  await using handle = await open(file, 'w')
  await handle.truncate(sizeMiB * 2 ** 20)
  return file
}

function initrdOf(dir: string): string {
  return join(dir, 'initrd.gz')
}

/** How a guest gets from one stage into the next. */
function entering(machine: Machine, name: GuestFunction): { rt(): Promise<string>; fn(): Promise<string> } {
  return { rt: () => machine.ask('go', 'RUNTIME'), fn: () => machine.request('load', name) }
}
