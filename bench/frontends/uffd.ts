/**
 * userfaultfd against a plain blocking handler in C, as Firecracker's example has one: the stand-in VMM touches pages in no order, and measures. All of it is in memory on both sides. The
 * unit is seconds a fault: p50 of a run, back to back and with a pause before each touch; and p99.9 while the same process pushes.
 *
 * Last, what a process that serves and has nothing to do takes of the processors.
 */
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { startHandler, startVmm } from '../../test/uffd/vmm.ts'
import { type Bench, type Contestant, inTurns, type Section, speedup, type Timing } from '../harness.ts'
import { Serving } from './serving.ts'
import { cacheBytes, type Stored } from './stores.ts'

const TOUCHES = 20_000
const PAUSED_TOUCHES = 4000
const SMOKE_TOUCHES = 200
const PAUSE_US = 200
const IDLE_MS = 5000
const SMOKE_IDLE_MS = 200

/** A server of one VMM at a time. */
interface Server {
  readonly name: string
  begin(socket: string): Promise<() => Promise<void>>
}

interface Touching {
  readonly count: number
  readonly pauseUs: number
  readonly figure: 'p50' | 'p999'
}

export async function uffd(bench: Bench, stored: Stored): Promise<Section[]> {
  const base = { dir: stored.dir, store: stored.url, ref: stored.ref, memoryBytes: cacheBytes(stored), warm: true }
  await using spinning = await Serving.start(bench, { ...base, spinMicroseconds: undefined })
  await using still = await Serving.start(bench, { ...base, spinMicroseconds: 0 })
  const servers = [served('thaw', spinning), served('thaw, no spin', still), handler(stored)]
  const sections: Section[] = []
  for (const pauseUs of [0, PAUSE_US]) {
    const count = bench.smoke ? SMOKE_TOUCHES : pauseUs === 0 ? TOUCHES : PAUSED_TOUCHES
    const timings = await inTurns(
      servers.map(server => touches(bench, stored, server, { count, pauseUs, figure: 'p50' })),
      bench.runs,
    )
    sections.push(faultSection(timings, pauseUs))
  }
  sections.push(await whilePushing(bench, stored, spinning))
  return sections
}

function faultSection(timings: readonly Timing[], pauseUs: number): Section {
  const spinning = 1 / speedup(timings, 'thaw', 'C handler')
  const still = 1 / speedup(timings, 'thaw, no spin', 'C handler')
  const section = { title: 'userfaultfd, faults at random pages', timings }
  if (pauseUs > 0) {
    // No spin lasts that long: all three are woken from their sleep.
    const notes = [`${spinning.toFixed(2)} of the C handler's time, ${still.toFixed(2)} without spin`]
    return { ...section, name: 'uffd-paused', title: `${section.title}, ${pauseUs} µs after one another: p50 in seconds`, goals: [], notes }
  }
  const goals = [
    { what: "of the C handler's time", value: spinning, bound: 'at most', target: 0.6 },
    { what: 'without spin', value: still, bound: 'at most', target: 1.2 },
  ] as const
  return { ...section, name: 'uffd', title: `${section.title}, back to back: p50 in seconds`, goals, notes: [] }
}

async function whilePushing(bench: Bench, stored: Stored, serving: Serving): Promise<Section> {
  const count = bench.smoke ? SMOKE_TOUCHES : TOUCHES
  await serving.ask({ kind: 'push', path: stored.image })
  const contestants = [touches(bench, stored, served('thaw', serving), { count, pauseUs: 0, figure: 'p999' })]
  const timings = await inTurns(contestants, bench.runs)
  await serving.ask({ kind: 'stopPush' })
  const idle = await idleShare(bench, serving)
  return {
    name: 'uffd-pushing',
    title: 'userfaultfd, while the same process pushes: p99.9 of a fault in seconds',
    timings,
    goals: [{ what: 'milliseconds', value: 1000 * timings[0]!.medianSeconds, bound: 'at most', target: 2 }],
    notes: [`a server with nothing to do took ${(100 * idle).toFixed(2)} % of a processor`],
  }
}

/** With a socket that nobody connects to. */
async function idleShare({ smoke, dir }: Bench, serving: Serving): Promise<number> {
  await serving.ask({ kind: 'uffd', path: join(dir, 'idle.sock') })
  const ms = smoke ? SMOKE_IDLE_MS : IDLE_MS
  await sleep(ms)
  const before = await serving.cpuSeconds()
  await sleep(ms)
  const share = ((await serving.cpuSeconds()) - before) / (ms / 1000)
  await serving.ask({ kind: 'end' })
  return share
}

function touches({ dir }: Bench, { image, sizeBytes }: Stored, { name, begin }: Server, { count, pauseUs, figure }: Touching): Contestant {
  return {
    name,
    async run() {
      const socket = join(dir, 'vmm.sock')
      const end = await begin(socket)
      try {
        await using vmm = await startVmm({ socket, image, regions: [{ sizeBytes, offsetBytes: 0 }] })
        const touched = await vmm.touchRandom({ count, seed: 7, threads: 1, pauseUs })
        if (touched.wrong !== 0) throw new Error(`${name}: ${touched.wrong} pages are not those of the image`)
        return { seconds: touched[figure] / 1e6 }
      } finally {
        await end()
      }
    },
  }
}

function served(name: string, serving: Serving): Server {
  return {
    name,
    async begin(path) {
      await serving.ask({ kind: 'uffd', path })
      return () => serving.ask({ kind: 'end' })
    },
  }
}

function handler({ image }: Stored): Server {
  return {
    name: 'C handler',
    async begin(socket) {
      const started = await startHandler({ socket, image, pageCache: true })
      return async () => await started[Symbol.asyncDispose]()
    },
  }
}
