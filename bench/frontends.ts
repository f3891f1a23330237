/**
 * Question: what does a guest wait for a page that is in memory, by each front end, beside what its users have today?
 *
 * Workloads, each a section of its own below `bench/frontends/`:
 * - nbd: 4 KiB random reads by fio, and nbdcopy. Peer: nbdkit's file plugin. Unit: seconds a read, and of a copy.
 * - fuse: page faults on a mapped file, and reading it whole. Peer: nbdfuse over nbdkit. Unit: seconds a fault, and of a pass.
 * - uffd: page faults of a VMM. Peer: a blocking handler in C. Unit: seconds a fault.
 * - many: 200 VMMs that do next to nothing, in one process. Units: bytes and descriptors for each, seconds to close all.
 * - guest: a real guest from the start of QEMU to its answer. Peers: a local memory file; booting. Unit: seconds.
 *
 *     npm run build && node bench/frontends.ts [--runs N] [--only uffd] [--json] [--save] [--smoke]
 */
import { fuse } from './frontends/fuse.ts'
import { guest } from './frontends/guest.ts'
import { many } from './frontends/many.ts'
import { nbd } from './frontends/nbd.ts'
import { type Stored, storedImage } from './frontends/stores.ts'
import { uffd } from './frontends/uffd.ts'
import { type Bench, runBench, type Section } from './harness.ts'

const SECTIONS: Readonly<Record<string, (bench: Bench, stored: Stored) => Promise<readonly Section[]>>> = { nbd, fuse, uffd, many, guest }

await runBench('frontends', async bench => {
  const stored = await storedImage(bench)
  const sections: Section[] = []
  for (const [name, measure] of Object.entries(SECTIONS)) {
    bench.signal.throwIfAborted()
    if (!bench.wants(name)) continue
    bench.note(name)
    sections.push(...(await measure(bench, stored)))
  }
  return sections
})
