/** examples/qemu/run.ts as a reader of its README runs it: it checks itself, so that it ends well is the test; and that it tidies up. */
import { execFile } from 'node:child_process'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { cachedGuest } from '../../bench/guest/cached.ts'
import { nothingIsLeftOf } from './leftovers.ts'

const EXAMPLE = join(import.meta.dirname, '../../examples/qemu/run.ts')
/** Where the example, which has the defaults, keeps what guests write. */
const OVERLAYS = `/var/tmp/thaw-overlays-${process.getuid?.()}`

/** It takes 20 s on a quiet machine. Then it is told to end, which takes its guests along. */
const EXAMPLE_TIMEOUT_MS = 100_000
const TEST_TIMEOUT_MS = 120_000

let folder: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'thaw-example-'))
  // The first capture takes longer than a test may.
  await cachedGuest()
})

afterAll(() => rm(folder, { recursive: true, force: true }))

it(
  'runs through, and leaves nothing',
  async () => {
    const env = { ...process.env, TMPDIR: folder, XDG_RUNTIME_DIR: folder }
    const limits = { timeout: EXAMPLE_TIMEOUT_MS, killSignal: 'SIGTERM' } as const
    const { stdout } = await promisify(execFile)(process.execPath, [EXAMPLE], { env, ...limits })
    expect(stdout).toContain('Everything was as it should be.')
    const restores = [...stdout.matchAll(/restore ([0-9a-f-]{36}) runs/g)].map(([, id]) => id!)
    expect(restores).toHaveLength(4)
    await nothingIsLeftOf(folder)
    expect((await readdir(folder)).filter(name => name !== 'thaw')).toEqual([])
    expect((await readdir(OVERLAYS)).filter(name => restores.some(id => name.includes(id)))).toEqual([])
  },
  TEST_TIMEOUT_MS,
)
