/** `thaw ps`: the restores that are running on this machine, of this user. */
import type { RestoreFigures } from '../index.ts'
import { readCacheSettings } from './cache-settings.ts'
import { formatAge, formatBytes, formatTable, shortId } from './format.ts'
import type { Invocation } from './invocation.ts'
import { findRunning, type Running } from './running.ts'
import { stateFolder } from './state-folder.ts'

const PAGE_BYTES = 4096

export async function listRestores({ flags, output, signal }: Invocation): Promise<void> {
  const folder = stateFolder(readCacheSettings(flags).stateDir)
  const sockets = await findRunning(folder, signal)
  for (const { pid, answer } of sockets) if (answer === undefined) output.warn(`process ${pid} does not answer: it may have restores too`)
  const found = sockets.flatMap(({ answer }) => (answer?.restores ?? []).map(restore => ({ process: answer!, restore })))
  if (output.json) for (const { process, restore } of found) output.item(documentOf(process, restore))
  else if (found.length > 0) output.lines(tableOf(found))
  if (found.length === 0) output.note(`no restore is running (looked in ${folder})`)
}

function documentOf({ pid, store }: Running, restore: RestoreFigures): object {
  return { pid, store, ...restore }
}

function tableOf(found: readonly { readonly process: Running; readonly restore: RestoreFigures }[]): string[] {
  const columns = [
    ...['RESTORE', 'SNAPSHOT', 'STARTED'].map(title => ({ title })),
    ...['PID', 'READ', 'WRITTEN'].map(title => ({ title, right: true })),
    { title: 'SERVES' },
  ]
  return formatTable(
    columns,
    found.map(({ process, restore: { id, snapshot, startedAt, images, overlay, frontEnds } }) => [
      id,
      shortId(snapshot),
      formatAge(new Date(startedAt)),
      String(process.pid),
      formatBytes(images.reduce((sum, { readBytes }) => sum + readBytes, 0)),
      formatBytes((overlay?.writtenPages ?? 0) * PAGE_BYTES),
      frontEnds.map(({ kind, image, path }) => `${kind} ${image === undefined ? '' : `${image} `}${path}`).join(', '),
    ]),
  )
}
