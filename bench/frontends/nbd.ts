/**
 * NBD against nbdkit's file plugin: 4 KiB random reads by fio, one at a time and sixteen, and a copy by nbdcopy. Everything is in memory on both sides: thaw's arena, the page cache of nbdkit's file. The unit is seconds a read, and of
 * a copy.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Bench, type Contestant, inTurns, type Run, type Section, speedup, timed } from '../harness.ts'
import { output } from './output.ts'
import { Serving } from './serving.ts'
import { cacheBytes, type Stored } from './stores.ts'

const RUN_MS = 3000
const SMOKE_MS = 200
const WAIT_MS = 10_000

interface Endpoint {
  readonly name: string
  readonly socket: string
}

export async function nbd(bench: Bench, stored: Stored): Promise<Section[]> {
  const base = { dir: stored.dir, store: stored.url, ref: stored.ref, memoryBytes: cacheBytes(stored), warm: true }
  await using spinning = await Serving.start(bench, { ...base, spinMicroseconds: undefined })
  await using still = await Serving.start(bench, { ...base, spinMicroseconds: 0 })
  await using nbdkit = await startNbdkit(bench, stored)
  const endpoints: Endpoint[] = [
    { name: 'thaw', socket: join(bench.dir, 'spinning.sock') },
    { name: 'thaw, no spin', socket: join(bench.dir, 'still.sock') },
    { name: 'nbdkit', socket: nbdkit.socket },
  ]
  await spinning.ask({ kind: 'nbd', path: endpoints[0]!.socket })
  await still.ask({ kind: 'nbd', path: endpoints[1]!.socket })
  const sections: Section[] = []
  for (const depth of [1, 16]) {
    const timings = await inTurns(
      endpoints.map(endpoint => randomReads(bench, endpoint, depth)),
      bench.runs,
    )
    const without =
      depth === 1
        ? [{ what: 'without spin', value: speedup(timings, 'thaw, no spin', 'nbdkit'), bound: 'at least', target: 0.9 } as const]
        : []
    sections.push({
      name: `nbd-${depth}`,
      title: `NBD, 4 KiB random reads, ${depth} at a time: seconds a read`,
      timings,
      goals: [{ what: 'times as fast as nbdkit', value: speedup(timings, 'thaw', 'nbdkit'), bound: 'at least', target: 1.3 }, ...without],
      notes: [],
    })
  }
  const timings = await inTurns(
    endpoints.map(endpoint => copy(endpoint, bench)),
    bench.runs,
  )
  sections.push({
    name: 'nbd-copy',
    title: `NBD, nbdcopy of ${stored.sizeBytes / 2 ** 20} MiB: seconds`,
    timings,
    goals: [{ what: 'times as fast as nbdkit', value: speedup(timings, 'thaw', 'nbdkit'), bound: 'at least', target: 1 }],
    notes: [],
  })
  return sections
}

function randomReads({ smoke, signal }: Bench, { name, socket }: Endpoint, depth: number): Contestant {
  return {
    name,
    async run(): Promise<Run> {
      const args = [
        '--name=reads',
        '--ioengine=nbd',
        `--uri=nbd+unix:///?socket=${socket}`,
        '--rw=randread',
        '--bs=4k',
        `--iodepth=${depth}`,
      ]
      const text = await output(
        'fio',
        [...args, '--time_based', `--runtime=${smoke ? SMOKE_MS : RUN_MS}ms`, '--output-format=json'],
        signal,
      )
      const report = JSON.parse(text.slice(text.indexOf('{')))
      return { seconds: 1 / report.jobs[0].read.iops }
    },
  }
}

function copy({ name, socket }: Endpoint, { signal }: Bench): Contestant {
  return { name, run: () => timed(() => output('nbdcopy', [`nbd+unix:///?socket=${socket}`, 'null:'], signal)) }
}

async function startNbdkit({ dir, signal }: Bench, { image }: Stored): Promise<{ readonly socket: string } & AsyncDisposable> {
  const socket = join(dir, 'nbdkit.sock')
  const child = spawn('nbdkit', ['--foreground', '--readonly', '--unix', socket, 'file', image], {
    stdio: ['ignore', 'ignore', 'inherit'],
    signal,
  })
  const exited = once(child, 'exit')
  exited.catch(() => undefined)
  const until = performance.now() + WAIT_MS
  while (!existsSync(socket) && performance.now() < until) await sleep(10)
  return {
    socket,
    async [Symbol.asyncDispose]() {
      child.kill()
      await exited
    },
  }
}
