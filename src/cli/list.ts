/**
 * `thaw ls`: snapshots or tags. With `--json` a line each, as they are found; for people a table, the newest snapshot last, where the eye is.
 */
import { formatTagName, type SnapshotSummary, type TagListing, type ThawError } from '../index.ts'
import { connect } from './connect.ts'
import { type Column, formatAge, formatBytes, formatCount, formatTable, shortId } from './format.ts'
import type { Invocation } from './invocation.ts'

const UNKNOWN = '?'
const NONE = '–'

const SNAPSHOT_COLUMNS: readonly Column[] = [
  { title: 'ID' },
  { title: 'LAYER' },
  { title: 'TENANT' },
  { title: 'IMAGES', right: true },
  { title: 'SIZE', right: true },
  { title: 'SEALED', right: true },
  { title: 'OWN', right: true },
  { title: 'AGE' },
  { title: 'TAGS' },
]

const TAG_COLUMNS: readonly Column[] = [{ title: 'TAG' }, { title: 'SNAPSHOT' }, { title: 'VERSION', right: true }, { title: 'SET' }]

export async function listSnapshots(invocation: Invocation): Promise<void> {
  await using store = await connect(invocation)
  const { output, signal } = invocation
  const summaries: SnapshotSummary[] = []
  const bad: ThawError[] = []
  for await (const summary of store.list({ signal, onBad: (_, error) => bad.push(error) })) {
    if (output.json) output.item(summary)
    else summaries.push(summary)
  }
  if (!output.json) printSnapshots(summaries, invocation)
  const [last, ...others] = bad.reverse()
  for (const error of others.reverse()) output.warn(error.message)
  if (last !== undefined) throw last
}

function printSnapshots(summaries: SnapshotSummary[], { output }: Invocation): void {
  output.lines(formatTable(SNAPSHOT_COLUMNS, summaries.sort(byAge).map(snapshotRow)))
  const sealed = summaries.filter(({ details }) => details === undefined).length
  if (sealed > 0)
    output.note(
      `${formatCount(sealed, 'snapshot')} cannot be opened with the keys at hand: what is not known of them is shown as ${UNKNOWN}`,
    )
}

export async function listTags(invocation: Invocation): Promise<void> {
  await using store = await connect(invocation)
  const { output, signal } = invocation
  const tags: TagListing[] = []
  for await (const tag of store.tags({ signal })) {
    if (output.json) output.item(tag)
    else tags.push(tag)
  }
  if (output.json) return
  output.lines(formatTable(TAG_COLUMNS, tags.map(tagRow).sort()))
}

/** Those whose age is not known come first, in the order of their ids, so that two listings can be compared. */
function byAge(a: SnapshotSummary, b: SnapshotSummary): number {
  const difference = (a.details?.createdAt.getTime() ?? 0) - (b.details?.createdAt.getTime() ?? 0)
  return difference !== 0 ? difference : a.id < b.id ? -1 : 1
}

function snapshotRow({ id, layer, tags, sealedBytes, ownSealedBytes, details }: SnapshotSummary): string[] {
  const size = details?.images.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
  return [
    shortId(id),
    layer,
    details === undefined ? UNKNOWN : (details.tenant ?? NONE),
    details === undefined ? UNKNOWN : formatCount(details.images.length),
    size === undefined ? UNKNOWN : formatBytes(size),
    formatBytes(sealedBytes),
    formatBytes(ownSealedBytes),
    details === undefined ? UNKNOWN : formatAge(details.createdAt),
    tags.map(formatTagName).sort().join(' '),
  ]
}

function tagRow(tag: TagListing): string[] {
  return [formatTagName(tag), shortId(tag.snapshot), formatCount(tag.seq), formatAge(new Date(tag.at))]
}
