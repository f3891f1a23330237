/**
 * Real snapshots for tests and benchmarks, from the best source this machine has: a guest where QEMU is, else a process. Either way
 * three flat images of one size, of which each is the one before it with pages changed.
 */
import { captureProcess } from '../process-memory.ts'
import { cachedGuest } from './cached.ts'
import { DEFAULT_SIZE_MIB, type StageDone, type StagePaths } from './capture.ts'
import { qemuAvailable } from './qemu.ts'

export interface Snapshots extends StagePaths {
  readonly kind: 'guest' | 'process'
  readonly sizeBytes: number
  /** The rest of the machine at each stage; a process has none. */
  readonly states?: StagePaths
  /** Why this source, in a sentence for a report. */
  readonly why: string
}

export interface SnapshotOptions {
  /** Where the images of a process go. Those of a guest lie in the user's cache, shared and not to be written to. */
  readonly dir: string
  /** Asks for one source; UNSUPPORTED if it is the guest and QEMU is missing. */
  readonly kind?: 'guest' | 'process'
  readonly signal?: AbortSignal | undefined
  readonly onStage?: ((done: StageDone) => void) | undefined
}

/** Three stages of real memory: at once if a guest was captured before, else within some 15 s. */
export async function captureSnapshots(options: SnapshotOptions): Promise<Snapshots> {
  const { dir, kind, signal, onStage } = options
  const qemu = qemuAvailable()
  if (kind === 'guest' || (kind === undefined && qemu.kind === 'available')) {
    const { images, states, sizeMiB } = await cachedGuest({ sizeMiB: DEFAULT_SIZE_MIB, signal, onStage })
    return { kind: 'guest', ...images, states, sizeBytes: sizeMiB * 2 ** 20, why: 'memory of a guest in QEMU' }
  }
  const { images, sizeBytes, fixedAddresses } = await captureProcess({ dir, signal, onStage })
  const reason = qemu.kind === 'missing' ? `no guest can run here, missing: ${qemu.missing.join(', ')}` : 'asked for'
  const addresses = fixedAddresses ? 'at fixed addresses' : 'at addresses that differ from run to run'
  return { kind: 'process', ...images, sizeBytes, why: `memory of a Node process ${addresses} (${reason})` }
}
