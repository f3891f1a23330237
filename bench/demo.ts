/**
 * The main job of thaw, once through, on what this machine has: `npm run demo`.
 *
 * Takes the memory of a real guest in three stages (of a Node process where no guest can run), stores each as a snapshot on top of the one before, shows what
 * was shared, pulls the last one back, compares it byte for byte, and resumes the guest from the store: its memory is a file of a mount, whose pages are fetched as the guest
 * touches them. (Where nothing can be mounted, from what was pulled.) Everything lies in a temporary folder that is removed at the end; the guest itself is captured
 * once and kept in the user's cache.
 *
 *     npm run demo -- [--process] [--keep]
 */
import { hash } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { formatBytes, formatDuration, formatRatio, formatShare, formatTable } from '../src/cli/format.ts'
import {
  createCache,
  createFileKeyring,
  type FileKeyring,
  initStore,
  isThawError,
  type Layer,
  mount,
  openStore,
  type PushResult,
  type SnapshotStore,
} from '../src/index.ts'
import { sameBytes } from './demo/same-bytes.ts'
import { resumeGuest, STAGES, type Stage } from './guest/capture.ts'
import { captureSnapshots, type Snapshots } from './guest/snapshots.ts'
import { runMain } from './interrupt.ts'

const TENANT = 'acme'
const SHARED_WITH_ALL = undefined

/** What each stage is stored as; its parent is the one before. */
const SNAPSHOT_OF: Readonly<Record<Stage, { readonly layer: Layer; readonly tenant: string | undefined; readonly tag: string }>> = {
  os: { layer: 'os', tenant: SHARED_WITH_ALL, tag: 'linux:6' },
  rt: { layer: 'runtime', tenant: SHARED_WITH_ALL, tag: 'python:3' },
  fn: { layer: 'function', tenant: TENANT, tag: 'table:1' },
}

const STAGE_TITLES: Readonly<Record<Stage, string>> = { os: 'os started', rt: 'runtime loaded', fn: 'function ready' }
/** The guest's function has a table of the SHA-256 of numbers. */
const QUESTION = '7'

async function demo(signal: AbortSignal): Promise<void> {
  const { values } = parseArgs({ options: { process: { type: 'boolean', default: false }, keep: { type: 'boolean', default: false } } })
  const dir = await mkdtemp(join(tmpdir(), 'thaw-demo-'))
  try {
    const snapshots = await capture(dir, values.process, signal)
    await storeAndRestore(dir, snapshots, signal)
  } finally {
    if (values.keep) console.log(`\nkept: ${dir}`)
    else await rm(dir, { recursive: true, force: true })
  }
}

async function capture(dir: string, asProcess: boolean, signal: AbortSignal): Promise<Snapshots> {
  step('Capturing real memory in three stages (15 s the first time) …')
  const snapshots = await captureSnapshots({
    dir,
    signal,
    ...(asProcess && { kind: 'process' }),
    onStage: ({ stage, elapsedMs }) => console.log(`  ${STAGE_TITLES[stage]}: ${formatDuration(elapsedMs)}`),
  })
  console.log(`  three images of ${formatBytes(snapshots.sizeBytes)} each: ${snapshots.why}`)
  return snapshots
}

async function storeAndRestore(dir: string, snapshots: Snapshots, signal: AbortSignal): Promise<void> {
  const url = join(dir, 'store')
  const keyring = await createFileKeyring(join(dir, 'keys'))
  await keyring.createTenant(TENANT)
  await initStore(url, { keyring, signal })
  await using store = await openStore(url, { keyring, signal })

  step('Pushing: sealed, and shared with the layers below …')
  const pushed = await pushAll(store, snapshots, signal)
  printPushed(pushed)

  step('Pulling the function back …')
  const pulled = await pull(store, pushed.at(-1)!.id, join(dir, 'pulled'), signal)
  await compare(snapshots, pulled)

  if (snapshots.kind === 'process') return
  step('Resuming the guest from the store, a page when it touches it …')
  await resume({ url, keyring, id: pushed.at(-1)!.id, dir, captured: dirname(snapshots.fn), pulled, signal })
}

async function pushAll(store: SnapshotStore, snapshots: Snapshots, signal: AbortSignal): Promise<PushResult[]> {
  const pushed: PushResult[] = []
  for (const stage of STAGES) {
    const images = {
      memory: { path: snapshots[stage] },
      ...(snapshots.states && { state: { path: snapshots.states[stage] } }),
    }
    pushed.push(await store.push({ ...SNAPSHOT_OF[stage], parent: pushed.at(-1)?.id, images }, { signal }))
  }
  return pushed
}

/** Writes the snapshot's images into a folder, which it returns. */
async function pull(store: SnapshotStore, id: string, dir: string, signal: AbortSignal): Promise<string> {
  await using snapshot = await store.open(id, { signal })
  const { fetchedBytes, fetchedChunks, durationMs } = await snapshot.pull(dir, { signal })
  console.log(`  ${formatBytes(fetchedBytes)} in ${fetchedChunks} chunks, ${formatDuration(durationMs)}`)
  return dir
}

async function compare({ fn, states }: Snapshots, pulled: string): Promise<void> {
  const pairs = [[fn, join(pulled, 'memory')], ...(states ? [[states.fn, join(pulled, 'state')]] : [])] as const
  for (const [original, copy] of pairs) {
    if (!(await sameBytes(original!, copy!))) throw new Error(`${copy} differs from what was pushed`)
  }
  console.log('  every byte is as it was pushed')
}

interface Resume {
  readonly url: string
  readonly keyring: FileKeyring
  readonly id: string
  readonly dir: string
  /** The folder of the capture: a machine is resumed in one that is built as the captured one was. */
  readonly captured: string
  /** The folder of the whole images. */
  readonly pulled: string
  readonly signal: AbortSignal
}

async function resume({ url, keyring, id, dir, captured, pulled, signal }: Resume): Promise<void> {
  await using cache = await createCache()
  await using store = await openStore(url, { keyring, cache, signal })
  await using snapshot = await store.open(id, { signal })
  await using restore = await snapshot.restore({ overlay: { dir: join(dir, 'overlays') } })
  try {
    const { path } = await mount(restore, join(dir, 'vm'), { writable: true })
    await ask(captured, path, signal)
    const { images } = restore.figures()
    const { readBytes, writtenBytes, misses } = images.find(({ name }) => name === 'memory')!
    console.log(
      `  it read ${formatBytes(readBytes)} of its memory, waited for ${misses} chunks of it, and wrote ${formatBytes(writtenBytes)}`,
    )
  } catch (error) {
    if (!isThawError(error, 'DENIED', 'UNSUPPORTED')) throw error
    console.log(`  ${error.message}; so from what was pulled`)
    await ask(captured, pulled, signal)
  }
}

async function ask(captured: string, images: string, signal: AbortSignal): Promise<void> {
  // Without it QEMU has the kernel read ahead, up to 4 MiB a fault.
  const launcher = [process.execPath, join(import.meta.dirname, '../src/cli.ts'), 'exec', '--']
  const files = { memory: join(images, 'memory'), state: join(images, 'state') }
  const { answer, answeredMs } = await resumeGuest({ dir: captured, ...files, launcher, argument: QUESTION, signal })
  console.log(`  asked for ${QUESTION}, the guest answered ${answer}`)
  if (answer !== hash('sha256', QUESTION, 'hex')) throw new Error('that is not what it answered before it was frozen')
  console.log(`  which is right, ${formatDuration(answeredMs)} after QEMU was started`)
}

function printPushed(pushed: readonly PushResult[]): void {
  const columns = ['SNAPSHOT', 'LAYER', 'SIZE', 'NOT ZERO', 'SHARED', 'NEW', 'STORED', 'RATIO', 'TIME']
  const rows = pushed.map(({ tag, layer, images, counts, durationMs }) => {
    const notZero = counts.inheritedBytes + counts.ownBytes
    return [
      tag!.name,
      layer,
      formatBytes(images.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)),
      formatBytes(notZero),
      `${formatBytes(counts.inheritedBytes)} (${formatShare(counts.inheritedBytes, notZero)})`,
      formatBytes(counts.ownBytes),
      formatBytes(counts.storedBytes),
      formatRatio(counts.ownBytes, counts.storedBytes),
      formatDuration(durationMs),
    ]
  })
  const titles = columns.map((title, index) => ({ title, right: index > 1 }))
  console.log(
    formatTable(titles, rows)
      .map(line => `  ${line}`)
      .join('\n'),
  )
  const sum = (of: (result: PushResult) => number): number => pushed.reduce((total, result) => total + of(result), 0)
  const notZero = sum(({ counts }) => counts.inheritedBytes + counts.ownBytes)
  const stored = sum(({ counts }) => counts.storedBytes)
  console.log(`  together ${formatBytes(notZero)} of pages that are not zero, stored as ${formatBytes(stored)}`)
}

function step(title: string): void {
  console.log(`\n${title}`)
}

await runMain('demo', demo)
