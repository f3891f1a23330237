/** `thaw pull`: whole images as sparse files. */
import type { PullProgress, PullResult, Snapshot } from '../index.ts'
import { connectWithKeys } from './connect.ts'
import { formatBytes, formatDuration, formatTable, formatTiers } from './format.ts'
import type { Invocation } from './invocation.ts'
import { ProgressLine, type ProgressView } from './progress.ts'
import { openCaches } from './read-through.ts'

export interface PullArguments {
  readonly ref: string
  readonly dir: string
  readonly images: readonly string[]
}

export async function pull(invocation: Invocation, { ref, dir, images }: PullArguments): Promise<void> {
  const { output, signal } = invocation
  await using caches = await openCaches(invocation)
  const { store } = await connectWithKeys(invocation, { cache: caches?.cache })
  await using _ = store
  caches?.announce(store)
  await using snapshot = await store.open(ref, { signal })
  const result = await pullWithProgress(invocation, snapshot, dir, images.length > 0 ? images : undefined)
  output.done({ id: snapshot.id, ...result }, () => tableOf(result))
  output.summary(() => [summaryOf(result, caches?.hasTiers ?? false)])
}

async function pullWithProgress(
  { output, signal }: Invocation,
  snapshot: Snapshot,
  dir: string,
  images: readonly string[] | undefined,
): Promise<PullResult> {
  using progress = new ProgressLine(output, viewOf)
  return await snapshot.pull(dir, { images, signal, onProgress: progress.report })
}

function viewOf({ writtenBytes, totalBytes, fetchedBytes }: PullProgress): ProgressView {
  return { doneBytes: writtenBytes, totalBytes, text: `fetched ${formatBytes(fetchedBytes)}` }
}

function tableOf({ images }: PullResult): string[] {
  return formatTable(
    [{ title: 'IMAGE' }, { title: 'SIZE', right: true }, { title: 'WRITTEN', right: true }, { title: 'FILE' }],
    images.map(({ name, path, sizeBytes, writtenBytes }) => [name, formatBytes(sizeBytes), formatBytes(writtenBytes), path]),
  )
}

function summaryOf({ fetchedBytes, fetchedChunks, servedBytes, durationMs }: PullResult, throughTiers: boolean): string {
  const where = throughTiers ? `, ${formatTiers(servedBytes)}` : ''
  return `fetched ${formatBytes(fetchedBytes)} in ${fetchedChunks} chunks${where}, ${formatDuration(durationMs)}`
}
