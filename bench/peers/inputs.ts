/** The images that are stored: three stages of a real guest (of a process where no guest can run), and a dense one. */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { STAGES, type Stage, type StagePaths } from '../guest/capture.ts'
import { captureSnapshots } from '../guest/snapshots.ts'
import type { Bench } from '../harness.ts'
import { writeDenseImage } from './dense.ts'
import { cachedDenseGuest } from './dense-guest.ts'

const DENSE_BYTES = 2 ** 30
const SMOKE_BYTES = 4 * 2 ** 20
/** Every so many bytes of a smoke image one page of a later stage is another. */
const SMOKE_STEP_BYTES = 300_000
const SMOKE_HOLE_BYTES = 2 ** 20

export interface StageInputs extends StagePaths {
  /** What they are, for the report. */
  readonly what: string
}

/** Also reads them once: the caches of the operating system are warm from then on. */
export async function stageInputs({ smoke, dir, signal, note }: Bench): Promise<StageInputs> {
  if (smoke) return await smokeStages(dir)
  note('capturing the memory of a real guest, if that was not done before (15 s)')
  const { os, rt, fn, why } = await captureSnapshots({ dir, signal })
  for (const path of [os, rt, fn]) await sha256Of(path)
  return { os, rt, fn, what: why }
}

/** The dense image, made once per user. */
export async function denseInput({ smoke, dir, signal, note }: Bench): Promise<string> {
  if (smoke) {
    const path = join(dir, 'dense.img')
    await writeDenseImage(path, SMOKE_BYTES)
    return path
  }
  note('making the dense image of 1 GiB, if that was not done before (10 s)')
  const { fn } = await captureSnapshots({ dir, signal })
  const path = await cachedDenseGuest(fn, DENSE_BYTES)
  await sha256Of(path)
  return path
}

/** Small stand-ins: a dense image with a hole behind it, of which each stage changes some pages. */
async function smokeStages(dir: string): Promise<StageInputs> {
  const paths = Object.fromEntries(STAGES.map(stage => [stage, join(dir, `${stage}.img`)])) as Record<Stage, string>
  for (const [index, stage] of STAGES.entries()) {
    await writeDenseImage(paths[stage], SMOKE_BYTES)
    await using file = await open(paths[stage], 'r+')
    for (let at = 0; index > 0 && at < SMOKE_BYTES; at += SMOKE_STEP_BYTES) await file.write(Buffer.alloc(100, index), 0, 100, at + index)
    await file.truncate(SMOKE_BYTES + SMOKE_HOLE_BYTES)
  }
  return { ...paths, what: 'small stand-ins' }
}

/** Hex. */
export async function sha256Of(path: string): Promise<string> {
  const hash = createHash('sha256')
  await pipeline(createReadStream(path, { highWaterMark: 2 ** 20 }), hash)
  return hash.digest('hex')
}
