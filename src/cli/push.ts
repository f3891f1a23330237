/** `thaw push`: prints the new snapshot's id alone on standard output; everything else is standard error's. */
import { addAbortSignal } from 'node:stream'
import {
  type FileKeyring,
  IMAGE_KINDS,
  type ImageKind,
  type ImageSource,
  isThawError,
  type Layer,
  type PushProgress,
  type PushResult,
  type SnapshotStore,
  type StorePushSpec,
} from '../index.ts'
import { connectWithKeys } from './connect.ts'
import { UsageError } from './exit.ts'
import { formatBytes, formatCount, formatDuration, formatRatio, formatShare } from './format.ts'
import type { Invocation } from './invocation.ts'
import { ProgressLine, type ProgressView } from './progress.ts'
import { openCaches } from './read-through.ts'
import { parseTag } from './tag-argument.ts'

export interface PushFlags {
  readonly layer: Layer
  readonly parent?: string
  readonly tenant?: string
  readonly tag?: string
  readonly label?: readonly string[]
  readonly diff?: readonly string[]
  readonly inherit?: boolean
  readonly prime?: boolean
  readonly createTenant?: boolean
  readonly requireProfile?: boolean
}

const STANDARD_INPUT = '-'

export async function push(invocation: Invocation, imageArguments: readonly string[], flags: PushFlags): Promise<void> {
  const { output, signal } = invocation
  const spec = specOf(imageArguments, flags, signal)
  await using caches = await openCaches(invocation)
  if (flags.prime && !caches?.hasL2) throw new UsageError('--prime needs an L2 cache: --l2 URL, THAW_L2, or l2 in the config')
  const { store, keyring } = await connectWithKeys(invocation, { requireProfile: flags.requireProfile ?? false, cache: caches?.cache })
  await using _ = store
  caches?.announce(store)
  if (flags.createTenant && (await createTenant(keyring, flags.tenant)))
    output.note(`made keys of tenant ${flags.tenant} in ${keyring.name}`)
  const result = await pushWithProgress(invocation, store, spec, flags.prime)
  for (const warning of result.warnings) output.warn(warning)
  output.answer(result, () => [result.id])
  output.summary(() => summaryOf(result))
}

async function pushWithProgress(
  { output, signal }: Invocation,
  store: SnapshotStore,
  spec: StorePushSpec,
  prime: boolean | undefined,
): Promise<PushResult> {
  using progress = new ProgressLine(output, viewOf)
  return await store.push(spec, { prime, signal, onProgress: progress.report })
}

function specOf(imageArguments: readonly string[], flags: PushFlags, signal: AbortSignal): StorePushSpec {
  const { layer, parent, tenant, tag, label = [], diff = [], inherit } = flags
  if (flags.createTenant && tenant === undefined) throw new UsageError('--create-tenant needs --tenant TENANT')
  if (diff.length > 0 && parent === undefined) throw new UsageError('--diff needs --parent REF: what its holes mean')
  if (imageArguments.length === 0 && diff.length === 0 && !inherit)
    throw new UsageError('nothing to push: name an image as NAME=FILE, or --inherit with --parent')
  return {
    layer,
    parent,
    tenant,
    tag: tag === undefined ? undefined : parseTag(tag, tenant, { sameTenant: true }).name,
    labels: unique(label.map(parseLabel), 'label'),
    inherit,
    images: unique([...imagesOf(imageArguments, signal), ...diff.map(diffOf)], 'image'),
  }
}

function imagesOf(imageArguments: readonly string[], signal: AbortSignal): [string, ImageSource][] {
  const parsed = imageArguments.map(parseImage)
  if (parsed.filter(({ file }) => file === STANDARD_INPUT).length > 1)
    throw new UsageError('only one image can be read from standard input')
  return parsed.map(({ name, kind, file }): [string, ImageSource] => {
    return [name, { kind, ...(file === STANDARD_INPUT ? { stream: standardInput(signal) } : { path: file }) }]
  })
}

function diffOf(text: string): [string, ImageSource] {
  const { name, kind, file } = parseImage(text)
  if (file === STANDARD_INPUT) throw new UsageError('--diff needs a file: a pipe has no holes')
  return [name, { kind, diff: file }]
}

/** `NAME=FILE` or `NAME:KIND=FILE`; the library judges the name. */
export function parseImage(text: string): { name: string; kind: ImageKind | undefined; file: string } {
  const [, name, kind, file] = /^([^=:]+)(?::([^=]*))?=(.+)$/s.exec(text) ?? []
  if (name === undefined || file === undefined)
    throw new UsageError(`${JSON.stringify(text)} is not an image: write NAME=FILE or NAME:KIND=FILE`)
  if (kind === undefined) return { name, kind, file }
  const known = IMAGE_KINDS.find(known => known === kind)
  if (known === undefined) throw new UsageError(`${JSON.stringify(kind)} is not a kind of image: ${IMAGE_KINDS.join(', ')}`)
  return { name, kind: known, file }
}

function parseLabel(text: string): [string, string] {
  const at = text.indexOf('=')
  if (at < 1) throw new UsageError(`${JSON.stringify(text)} is not a label: write NAME=VALUE`)
  return [text.slice(0, at), text.slice(at + 1)]
}

function unique<T>(entries: readonly (readonly [string, T])[], what: string): Record<string, T> {
  const names = new Set<string>()
  for (const [name] of entries) {
    if (names.has(name)) throw new UsageError(`${what} ${JSON.stringify(name)} is given twice`)
    names.add(name)
  }
  return Object.fromEntries(entries)
}

/** Destroyed by the signal: a pipe that stays silent would otherwise hold up an interrupted push. */
function standardInput(signal: AbortSignal): AsyncIterable<Uint8Array> {
  if (process.stdin.isTTY) throw new UsageError('standard input is a terminal: pipe an image into it')
  return addAbortSignal(signal, process.stdin)
}

/** True if the tenant was not there. */
async function createTenant(keyring: FileKeyring, tenant: string | undefined): Promise<boolean> {
  if (tenant === undefined || (await keyring.tenants()).includes(tenant)) return false
  try {
    await keyring.createTenant(tenant)
    return true
  } catch (error) {
    // Another process made it just now, and this keyring holds it from now on.
    if (isThawError(error, 'CONFLICT')) return false
    throw error
  }
}

/** Which image, and where its bytes go; what does not occur is left out, because a terminal is narrow. */
function viewOf({ phase, image, doneBytes, totalBytes, ...counts }: PushProgress): ProgressView {
  const bytes: [string, number][] = [
    ['stored', counts.storedBytes],
    ['found', counts.foundBytes],
    ['inherited', counts.inheritedBytes],
    ['zero', counts.zeroBytes],
  ]
  const figures = bytes.filter(([, figure]) => figure > 0).map(([what, figure]) => `${what} ${formatBytes(figure)}`)
  return { doneBytes, totalBytes, text: [phase === 'images' ? (image ?? 'repacking') : phase, ...figures].join('  ') }
}

function summaryOf({ images, counts, durationMs }: PushResult): string[] {
  const { zeroBytes, inheritedBytes, ownBytes, storedBytes, foundBytes, doneBytes, primedChunks } = counts
  const primed = primedChunks > 0 ? `, ${formatCount(primedChunks, 'chunk')} in L2 too` : ''
  const sealedBytes = storedBytes + foundBytes
  const rate = formatBytes(durationMs > 0 ? (1000 * doneBytes) / durationMs : 0)
  const shared = formatShare(inheritedBytes, inheritedBytes + ownBytes)
  const names = images.map(({ name, sizeBytes }) => `${name} ${formatBytes(sizeBytes)}`).join(', ')
  return [
    `pushed ${names} in ${formatDuration(durationMs)}, ${rate}/s`,
    `zero ${formatBytes(zeroBytes)}, shared with the parent ${formatBytes(inheritedBytes)} (${shared} of the rest), new ${formatBytes(ownBytes)}`,
    `stored ${formatBytes(storedBytes)}, found there ${formatBytes(foundBytes)}, compressed ${formatRatio(ownBytes, sealedBytes)}${primed}`,
  ]
}
