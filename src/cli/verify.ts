/** `thaw verify`: reads all of a snapshot. What is bad is listed on standard output, and makes the command fail. */
import { type SnapshotStore, ThawError, type VerifyProgress, type VerifyReport } from '../index.ts'
import { connect } from './connect.ts'
import { formatBytes, formatCount, oneLine } from './format.ts'
import type { Invocation } from './invocation.ts'
import { ProgressLine, type ProgressView } from './progress.ts'
import { openCaches } from './read-through.ts'

export async function verify(invocation: Invocation, ref: string): Promise<void> {
  await using caches = await openCaches(invocation)
  await using store = await connect(invocation, { cache: caches?.cache })
  caches?.announce(store)
  const { output } = invocation
  const report = await verifyWithProgress(invocation, store, ref)
  const { id, bad, chunks, opened } = report
  if (bad.length === 0) {
    output.done(report, () => [verdict(report)])
    if (!opened) output.note('its contents were not compared with its page map: that needs a keyring that can open it')
    return
  }
  output.answer(report, () => bad.map(({ object, code, message }) => oneLine(`${code}  ${object}  ${message}`)))
  const found = `${formatCount(bad.length, 'object')} of snapshot ${id} (${formatCount(chunks, 'chunk')} read)`
  throw new ThawError('CORRUPT', `bad: ${found}: push it again from its images, or restore what is listed from a copy of the store`, {
    object: id,
  })
}

async function verifyWithProgress({ output, signal }: Invocation, store: SnapshotStore, ref: string): Promise<VerifyReport> {
  using progress = new ProgressLine(output, viewOf)
  return await store.verify(ref, { signal, onProgress: progress.report })
}

function viewOf({ bytes, totalBytes, chunks, totalChunks }: VerifyProgress): ProgressView {
  return { doneBytes: bytes, totalBytes, text: `${formatCount(chunks)} of ${formatCount(totalChunks, 'chunk')}` }
}

function verdict({ id, chunks, bytes, opened }: VerifyReport): string {
  const what = opened ? 'every chunk is what its id says, every page what the manifest says' : 'every chunk is what its id says'
  return `good: ${id}: ${what} (${formatCount(chunks, 'chunk')}, ${formatBytes(bytes)})`
}
