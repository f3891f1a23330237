/**
 * Many restores in one process, each with a VMM behind userfaultfd that touched a few pages and then does nothing: what each holds of memory and descriptors, and how long it takes to close
 * all at once. No peer: nothing else serves several guests. The image is in memory before, so that what grows is the restores' own.
 */
import { join } from 'node:path'
import { startVmm, type Vmm } from '../../test/uffd/vmm.ts'
import { type Bench, inTurns, type Section } from '../harness.ts'
import { type Held, Serving } from './serving.ts'
import { cacheBytes, type Stored } from './stores.ts'

const RESTORES = 200
const SMOKE_RESTORES = 4
/** Begun at a time. */
const AT_ONCE = 8
const TOUCHES = 64
const CLOSE_SECONDS_MAX = 2

export async function many(bench: Bench, stored: Stored): Promise<Section[]> {
  const base = { dir: stored.dir, store: stored.url, ref: stored.ref, memoryBytes: cacheBytes(stored), warm: true }
  await using serving = await Serving.start(bench, { ...base, spinMicroseconds: undefined })
  const count = bench.smoke ? SMOKE_RESTORES : RESTORES
  // What is started once: pagers, the guard, code.
  await closed(serving, await begun(bench, stored, serving, AT_ONCE))
  const each: Held[] = []
  const contestant = {
    name: 'thaw',
    async run() {
      const before = await serving.holds()
      const vmms = await begun(bench, stored, serving, count)
      const after = await serving.holds()
      each.push({
        residentBytes: (after.residentBytes - before.residentBytes) / count,
        descriptors: (after.descriptors - before.descriptors) / count,
      })
      return { seconds: await closed(serving, vmms) }
    },
  }
  const timings = await inTurns([contestant], bench.runs)
  const goals = [
    { what: 'MiB each', value: Math.max(...each.map(({ residentBytes }) => residentBytes)) / 2 ** 20, bound: 'at most', target: 1 },
    { what: 'descriptors each', value: Math.max(...each.map(({ descriptors }) => descriptors)), bound: 'at most', target: 8 },
    { what: 'seconds to close all', value: timings[0]!.medianSeconds, bound: 'at most', target: CLOSE_SECONDS_MAX },
  ] as const
  const title = `${count} restores behind userfaultfd that do next to nothing: closing all, in seconds`
  return [{ name: 'many', title, timings, goals, notes: [] }]
}

async function begun({ dir }: Bench, { image, sizeBytes }: Stored, serving: Serving, count: number): Promise<Vmm[]> {
  const vmms: Vmm[] = []
  const one = async (number: number): Promise<void> => {
    const socket = join(dir, `${number}.sock`)
    await serving.ask({ kind: 'uffd', path: socket })
    const vmm = await startVmm({ socket, image, regions: [{ sizeBytes, offsetBytes: 0 }] })
    vmms.push(vmm)
    const { wrong } = await vmm.touchRandom({ count: TOUCHES, seed: number })
    if (wrong !== 0) throw new Error(`${wrong} pages are not those of the image`)
  }
  for (let number = 0; number < count; number += AT_ONCE) {
    await Promise.all(Array.from({ length: Math.min(AT_ONCE, count - number) }, (_, index) => one(number + index)))
  }
  return vmms
}

/** @returns seconds until all are closed, and their VMMs gone */
async function closed(serving: Serving, vmms: readonly Vmm[]): Promise<number> {
  const startedAt = performance.now()
  await serving.ask({ kind: 'end' })
  const seconds = (performance.now() - startedAt) / 1000
  for (const vmm of vmms) await vmm.ended()
  return seconds
}
