/**
 * Captures the memory of a real Node process in the three stages that a guest is captured in: bare, with modules loaded, with a
 * function's data built. It is the input where no guest can run: real pages, with real sharing between stages, but neither a kernel's
 * nor resumable.
 *
 * The image is flat as a guest's memory is: every 512 KiB of address space in which something is not zero gets 512 KiB of the image, in
 * the order first seen, and keeps them through all stages. So a page has one place however the mappings around it grow, and what was
 * unmapped or is zero is a hole.
 *
 * The child runs without address space randomisation where `setarch -R` may do that. Within one capture addresses are stable anyway;
 * between captures only equal addresses make equal pages, since memory is full of pointers: two captures then have 99 % of the pages of
 * stage os in common, 72 % with random ones. V8 has randomness of its own, which is turned off below.
 *
 * A process may read its own children's memory through /proc without privilege, unless Yama's ptrace_scope is 2 or 3: that is DENIED.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, truncate } from 'node:fs/promises'
import { join } from 'node:path'
import { findProgram } from '../scripts/find-program.ts'
import { ThawError } from '../src/errors.ts'
import { STAGES, type Stage, type StageDone, type StagePaths, stagePaths } from './guest/capture.ts'
import { within } from './guest/within.ts'
import { copyMemory, Layout } from './process-memory/image.ts'
import { whileStopped } from './process-memory/stopped.ts'

export interface ProcessCaptureOptions {
  /** Where os.img, rt.img and fn.img go; made if it is not there. */
  readonly dir: string
  readonly signal?: AbortSignal | undefined
  readonly onStage?: ((done: StageDone) => void) | undefined
}

export interface ProcessCapture {
  readonly images: StagePaths
  /** Of each image, holes counted. */
  readonly sizeBytes: number
  /** Whether another capture will find the same mappings at the same addresses. */
  readonly fixedAddresses: boolean
}

const STAGE_TIMEOUT_MS = 60_000
const COPY_TIMEOUT_MS = 60_000
/** V8 places its heap at random addresses of its own choice, and threads allocate in an order that differs from run to run. */
const SAME_EVERY_TIME = ['--random-seed=1', '--single-threaded'] as const
const PROGRAM = join(import.meta.dirname, 'process-memory/child.ts')

/** Runs a Node process through its stages and leaves an image of each in `dir`; about 3 s. Throws UNSUPPORTED, DENIED, TIMEOUT. */
export async function captureProcess(options: ProcessCaptureOptions): Promise<ProcessCapture> {
  const { dir, signal, onStage } = options
  if (process.platform !== 'linux')
    throw new ThawError('UNSUPPORTED', `the memory of a process can be read on Linux only, not ${process.platform}`)
  await mkdir(dir, { recursive: true })
  const images = stagePaths(dir, 'img')
  const layout = new Layout()
  const setarch = fixedAddressLauncher()
  const child = startChild(setarch)
  try {
    for (const stage of STAGES) {
      const started = performance.now()
      const pid = await enter(child, stage, signal)
      onStage?.({ stage, elapsedMs: performance.now() - started })
      await within(`copying the memory of process ${pid}`, COPY_TIMEOUT_MS, signal, signal =>
        whileStopped(pid, signal, () => copyMemory(pid, images[stage], layout, signal)),
      )
    }
  } finally {
    await end(child)
  }
  for (const stage of STAGES) await truncate(images[stage], layout.sizeBytes)
  return { images, sizeBytes: layout.sizeBytes, fixedAddresses: setarch !== undefined }
}

/** `setarch -R` if it is there and allowed: containers often forbid the system call behind it. */
function fixedAddressLauncher(): string | undefined {
  const setarch = findProgram('setarch')
  if (setarch === undefined) return undefined
  return spawnSync(setarch, ['-R', 'true'], { stdio: 'ignore', timeout: 10_000 }).status === 0 ? setarch : undefined
}

function startChild(setarch: string | undefined): ChildProcess {
  const node = [process.execPath, ...SAME_EVERY_TIME, PROGRAM] as const
  const [command, ...args] = setarch === undefined ? node : ([setarch, '-R', ...node] as const)
  // Nothing of the caller's environment: it would lie on the child's stack and move its pages, and a test runner's options would load.
  return spawn(command, args, { env: { PATH: '/usr/bin:/bin' }, stdio: ['ignore', 'ignore', 'inherit', 'ipc'] })
}

/** Lets the child go into `stage` and waits until it is there. Its process id. */
async function enter(child: ChildProcess, stage: Stage, signal: AbortSignal | undefined): Promise<number> {
  return await within(`stage ${stage} of the process`, STAGE_TIMEOUT_MS, signal, async signal => {
    const gone = once(child, 'exit', { signal }).then(([code, name]) => {
      throw new ThawError('UNAVAILABLE', `the process ended with ${code ?? name} in stage ${stage}`)
    })
    const there = once(child, 'message', { signal })
    child.send(stage)
    await Promise.race([there, gone])
    if (child.pid === undefined) throw new ThawError('UNAVAILABLE', 'the process could not be started')
    return child.pid
  })
}

async function end(child: ChildProcess): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
  const exited = once(child, 'exit')
  child.kill('SIGKILL')
  await exited
}
