/**
 * FUSE against nbdfuse over nbdkit: page faults at random pages of a mapped file, and reading it whole with read-ahead. The pages are in memory on both sides, and not in the
 * page cache of the mount. The unit is seconds a fault (p50 of a run), and of a pass.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { compileC } from '../../test/uffd/line-process.ts'
import { type Bench, type Contestant, inTurns, type Section, speedup } from '../harness.ts'
import { output } from './output.ts'
import { Serving } from './serving.ts'
import { cacheBytes, type Stored } from './stores.ts'

const FAULTS = 5000
const SMOKE_FAULTS = 200
const READ_AHEAD_BYTES = 2 ** 20
const WAIT_MS = 10_000

/** A file to read, mounted anew for each run. */
interface Mounted {
  readonly name: string
  /** Mounts, has the file read, unmounts. */
  use<T>(read: (file: string) => Promise<T>): Promise<T>
}

export async function fuse(bench: Bench, stored: Stored): Promise<Section[]> {
  const program = await compileC(join(import.meta.dirname, 'faults.c'))
  const base = { dir: stored.dir, store: stored.url, ref: stored.ref, memoryBytes: cacheBytes(stored), warm: true }
  await using spinning = await Serving.start(bench, { ...base, spinMicroseconds: undefined })
  await using still = await Serving.start(bench, { ...base, spinMicroseconds: 0 })
  const peer = overNbdkit(bench, stored)
  const count = bench.smoke ? SMOKE_FAULTS : FAULTS
  const fault = ({ name, use }: Mounted): Contestant => ({
    name,
    run: () => use(async file => ({ seconds: JSON.parse(await output(program, [file, 'random', String(count)], bench.signal)).p50 })),
  })
  const pass = ({ name, use }: Mounted): Contestant => ({
    name,
    run: () => use(async file => ({ seconds: JSON.parse(await output(program, [file, 'sequential', '0'], bench.signal)).seconds })),
  })
  const faults = await inTurns(
    [mounted(bench, 'thaw', spinning, 0), mounted(bench, 'thaw, no spin', still, 0), peer].map(fault),
    bench.runs,
  )
  const passes = await inTurns([mounted(bench, 'thaw', spinning, READ_AHEAD_BYTES), peer].map(pass), bench.runs)
  return [
    {
      name: 'fuse-faults',
      title: 'FUSE, faults at random pages of a mapped file: p50 in seconds',
      timings: faults,
      goals: [
        { what: "of nbdfuse's time", value: 1 / speedup(faults, 'thaw', 'nbdfuse'), bound: 'at most', target: 0.4 },
        { what: 'without spin', value: 1 / speedup(faults, 'thaw, no spin', 'nbdfuse'), bound: 'at most', target: 0.6 },
      ],
      notes: [],
    },
    {
      name: 'fuse-sequential',
      title: `FUSE, reading ${stored.sizeBytes / 2 ** 20} MiB with read-ahead: seconds`,
      timings: passes,
      goals: [{ what: 'times as fast as nbdfuse', value: speedup(passes, 'thaw', 'nbdfuse'), bound: 'at least', target: 1 }],
      notes: [],
    },
  ]
}

function mounted({ dir }: Bench, name: string, serving: Serving, readAheadBytes: number): Mounted {
  const path = join(dir, `mount-${name.replaceAll(/\W+/g, '-')}`)
  return {
    name,
    async use(read) {
      await serving.ask({ kind: 'mount', path, writable: false, readAheadBytes })
      try {
        return await read(join(path, 'memory'))
      } finally {
        await serving.ask({ kind: 'end' })
      }
    },
  }
}

/** nbdfuse serves one file of a folder, over an nbdkit of its own. */
function overNbdkit({ dir, signal }: Bench, { image }: Stored): Mounted {
  const folder = join(dir, 'nbdfuse')
  const file = join(folder, 'nbd')
  return {
    name: 'nbdfuse',
    async use(read) {
      await mkdir(folder, { recursive: true })
      const child = spawn('nbdfuse', ['--readonly', file, '--command', 'nbdkit', '-s', 'file', image], {
        stdio: ['ignore', 'ignore', 'inherit'],
        signal,
      })
      const exited = once(child, 'exit')
      exited.catch(() => undefined)
      const until = performance.now() + WAIT_MS
      while (!existsSync(file) && performance.now() < until) await sleep(10)
      try {
        return await read(file)
      } finally {
        await output('umount', [folder], signal)
        await exited
      }
    },
  }
}
