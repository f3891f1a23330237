/**
 * Question: does the manifest of a large snapshot stay small, and does it open at once?
 *
 * Workload: synthetic manifests of a 30 GiB image in which every range of 512 KiB is in use, the worst there is: once laid out by position at two runs a range, once
 * also cut up by pages that changed since and lie in packs. Unit: bytes against the image's, bytes for each further run, milliseconds to check the hash of a manifest
 * in memory and to decode it. No peer.
 *
 *     node bench/manifest.ts [--runs N] [--json] [--save] [--smoke]
 */
import { randomBytes } from 'node:crypto'
import { formatBytes, formatCount } from '../src/cli/format.ts'
import { decodeManifest } from '../src/manifest/decode.ts'
import { encodeManifest } from '../src/manifest/encode.ts'
import { snapshotIdOf } from '../src/manifest.ts'
import { type Bench, inTurns, runBench, type Section, timed } from './harness.ts'
import { syntheticManifest } from './manifest/synthetic.ts'

const IMAGE_BYTES = 30 * 2 ** 30
const SMOKE_BYTES = 64 * 2 ** 20
const SIZE_SHARE_TARGET = 0.0002
const FURTHER_RUN_BYTES_TARGET = 4
const OPEN_MS_TARGET = 50
/** Runs a range in the cut-up manifest, about. */
const DIRTY_STRETCHES = 4
/** Id, key, page count and sealed length. */
const CHUNK_ENTRY_BYTES = 32 + 32 + 1 + 2

async function manifest({ smoke, runs }: Bench): Promise<Section[]> {
  const sizeBytes = smoke ? SMOKE_BYTES : IMAGE_BYTES
  const dataKey = randomBytes(32)
  const made = { plain: syntheticManifest(sizeBytes, 0), cut: syntheticManifest(sizeBytes, DIRTY_STRETCHES) }
  const plain = { bytes: encodeManifest(made.plain, dataKey), runs: made.plain.images[0]!.map.runCount }
  const cut = { bytes: encodeManifest(made.cut, dataKey), runs: made.cut.images[0]!.map.runCount }
  const opening = ({ bytes }: { readonly bytes: Buffer }) => ({ run: () => timed(() => open(bytes, dataKey)) })
  const timings = await inTurns(
    [
      { name: `open, ${formatCount(plain.runs, 'run')}`, ...opening(plain) },
      { name: `open, ${formatCount(cut.runs, 'run')}`, ...opening(cut) },
    ],
    runs,
  )
  // Chunks that hold the packs cost their own ids and keys: that is the price of a chunk, not of a run.
  const chunkBytes = (made.cut.sealedBytes.length - made.plain.sealedBytes.length) * CHUNK_ENTRY_BYTES
  const furtherBytes = cut.bytes.length - plain.bytes.length - chunkBytes
  const image = formatBytes(sizeBytes)
  return [
    {
      name: 'manifest',
      title: `one image of ${image}, every range in use`,
      timings,
      goals: [
        { what: 'manifest / image', value: plain.bytes.length / sizeBytes, bound: 'at most', target: SIZE_SHARE_TARGET },
        { what: 'bytes a further run', value: furtherBytes / (cut.runs - plain.runs), bound: 'at most', target: FURTHER_RUN_BYTES_TARGET },
        { what: 'ms to open', value: timings[0]!.medianSeconds * 1000, bound: 'at most', target: OPEN_MS_TARGET },
        { what: 'ms to open, first time', value: timings[0]!.seconds[0]! * 1000, bound: 'at most', target: OPEN_MS_TARGET },
      ],
      notes: [plain, cut].map(({ bytes, runs }) => `${formatCount(runs, 'run')}: ${formatBytes(bytes.length)}`),
    },
  ]
}

function open(bytes: Buffer, dataKey: Uint8Array): void {
  decodeManifest(bytes, dataKey, snapshotIdOf(bytes).toString('hex'))
}

await runBench('manifest', manifest)
