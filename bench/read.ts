/**
 * Question: what does a read cost, tier by tier, and how much of that is thaw's?
 *
 * Workloads, each a section of its own below `bench/read/`:
 * - memory: 4 KiB and large `tryReadInto` of chunks in L1 memory; also from another thread while the process pushes. Unit: time of a read.
 * - miss: reads of another thread that the engine serves from a directory store, while the main thread spins in blocks of 100 ms. Unit: time of a read.
 * - beside-bulk, beside-reader: demands beside prefetches and a pull, beside another reader's thousand wants. Unit: time of a read. Peer: the same demands alone.
 * - open: a snapshot of 30 GiB, for the first time and again. Unit: time of an open, the longest step of the engine's thread, bytes of a restore.
 * - disk, l2: first reads of chunks that lie in one cache only. Unit: seconds of a pass over all of them. Peer: the same bytes read, hashed, decrypted and decompressed by hand.
 * - pull: whole images from a MinIO through empty caches. Peer: the bare S3 client.
 * - herd: 64 readers of one cold snapshot. Unit: how often each chunk was fetched.
 * - spawns: reads of another thread while programs are started beside a full arena. Unit: time of a read.
 * - stall: reads from five shards of which one hangs, with and without the erasure code. Unit: time of a read.
 *
 *     npm run build && node bench/read.ts [--runs N] [--only disk] [--json] [--save] [--smoke]
 */
import { type Bench, runBench, type Section } from './harness.ts'
import { besideBulk, besideReader } from './read/beside.ts'
import { disk } from './read/disk.ts'
import { herd } from './read/herd.ts'
import { l2 } from './read/l2.ts'
import { memory } from './read/memory.ts'
import { miss } from './read/miss.ts'
import { open } from './read/open.ts'
import { pull } from './read/pull.ts'
import { spawns } from './read/spawns.ts'
import { stall } from './read/stall.ts'

const SECTIONS: Readonly<Record<string, (bench: Bench) => Promise<readonly Section[]>>> = {
  memory,
  miss,
  'beside-bulk': besideBulk,
  'beside-reader': besideReader,
  open,
  disk,
  l2,
  pull,
  herd,
  spawns,
  stall,
}

await runBench('read', async bench => {
  const sections: Section[] = []
  for (const [name, measure] of Object.entries(SECTIONS)) {
    bench.signal.throwIfAborted()
    if (!bench.wants(name)) continue
    bench.note(name)
    sections.push(...(await measure(bench)))
  }
  return sections
})
