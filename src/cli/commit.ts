/** `thaw commit`: asks the process of a restore to publish what the guest made of its snapshot, as a child of it. */
import { resolve } from 'node:path'
import { type DiffBase, isThawError, type Layer, type PushProgress, type PushResult, type RestoreFigures, ThawError } from '../index.ts'
import { readCacheSettings } from './cache-settings.ts'
import { type CommitLine, type CommitRequest, commitPath } from './commit-answer.ts'
import { UsageError } from './exit.ts'
import { formatBytes, formatCount, formatDuration } from './format.ts'
import type { Invocation } from './invocation.ts'
import { ProgressLine, type ProgressView } from './progress.ts'
import { type FoundSocket, findRunning, tellRunning } from './running.ts'
import { stateFolder } from './state-folder.ts'

export interface CommitFlags {
  readonly diff?: readonly string[]
  readonly diffBase?: DiffBase
  readonly tag?: string
  readonly label?: readonly string[]
  readonly layer?: Layer
  readonly tenant?: string
  readonly prime?: boolean
}

interface FoundRestore {
  readonly restore: RestoreFigures
  /** Of its process. */
  readonly socket: string
}

export async function commit(invocation: Invocation, ref: string, images: readonly string[], flags: CommitFlags): Promise<void> {
  const { output, signal } = invocation
  const { diff = [], diffBase, label = [], tag, layer, tenant, prime } = flags
  const request: CommitRequest = {
    diffs: pairsOf('--diff', 'NAME=FILE', diff, fileOf),
    images: pairsOf('image', 'NAME=FILE', images, fileOf),
    labels: pairsOf('--label', 'NAME=VALUE', label, value => value),
    ...{ diffBase, tag, layer, tenant, prime },
  }
  const folder = stateFolder(readCacheSettings(invocation.flags).stateDir)
  const { restore, socket } = oneRestore(ref, await findRunning(folder, signal), folder)
  const result = await askFor(invocation, socket, commitPath(restore.id), request)
  for (const warning of [...newImages(restore, request), ...result.warnings]) output.warn(warning)
  output.answer({ restore: restore.id, ...result }, () => [result.id])
  output.summary(() => [summaryOf(result)])
}

function pairsOf(what: string, form: string, texts: readonly string[], read: (value: string) => string): Record<string, string> {
  const pairs: Record<string, string> = {}
  for (const text of texts) {
    const at = text.indexOf('=')
    if (at <= 0 || at === text.length - 1) throw new UsageError(`${what}: ${JSON.stringify(text)} is not ${form}`)
    const name = text.slice(0, at)
    if (Object.hasOwn(pairs, name)) throw new UsageError(`${what}: ${name} is named twice`)
    pairs[name] = read(text.slice(at + 1))
  }
  return pairs
}

/** Read by the restore's process, which has no standard input of ours. */
function fileOf(text: string): string {
  if (text === '-') throw new UsageError('standard input cannot be committed: name a file')
  return resolve(text)
}

/** Perhaps a name that was mistyped. */
function newImages({ images }: RestoreFigures, request: CommitRequest): string[] {
  const known = images.map(({ name }) => name)
  const added = Object.keys(request.images).filter(name => !known.includes(name))
  return added.map(name => `image ${name} is new: the parent has ${known.join(', ')}`)
}

/** The restore of an id, or of an unambiguous beginning of one. */
function oneRestore(ref: string, found: readonly FoundSocket[], folder: string): FoundRestore {
  // A variable of a script that nobody has set: the beginning of every id.
  if (ref === '') throw new UsageError('the id of the restore is empty: `thaw ps` lists them')
  const restores = found.flatMap(({ socket, answer }) => (answer?.restores ?? []).map(restore => ({ restore, socket })))
  const exact = restores.filter(({ restore }) => restore.id === ref)
  const fitting = exact.length > 0 ? exact : restores.filter(({ restore }) => restore.id.startsWith(ref))
  const [one, ...others] = fitting
  if (one === undefined) {
    throw new ThawError('NOT_FOUND', `no restore ${JSON.stringify(ref)} is running (looked in ${folder}): \`thaw ps\` lists them`, {
      object: ref,
    })
  }
  if (others.length > 0) {
    throw new ThawError('CONFLICT', `${JSON.stringify(ref)} is the beginning of ${fitting.length} ids: \`thaw ps\` lists them`, {
      object: ref,
    })
  }
  return one
}

async function askFor({ output, signal }: Invocation, socket: string, path: string, request: CommitRequest): Promise<PushResult> {
  using progress = new ProgressLine(output, viewOf)
  try {
    for await (const text of tellRunning(socket, path, request, signal)) {
      const line: CommitLine = JSON.parse(text)
      if (line.kind === 'progress') progress.report?.(line.progress)
      else if (line.kind === 'result') return line.result
      else throw errorOf(line)
    }
  } catch (cause) {
    signal.throwIfAborted()
    if (isThawError(cause) || cause instanceof UsageError) throw cause
    throw unanswered(socket, cause)
  }
  throw unanswered(socket)
}

function unanswered(object: string, cause?: unknown): ThawError {
  const message = "the restore's process ended before it told what became of the commit: `thaw ls` shows whether it was published"
  return new ThawError('UNAVAILABLE', message, { cause, object })
}

function errorOf({ failure: { code, message, object } }: CommitLine & { readonly kind: 'failure' }): Error {
  if (code === 'USAGE') return new UsageError(message)
  const known = code === 'UNEXPECTED' || code === 'INTERRUPTED' ? 'UNAVAILABLE' : (code as ThawError['code'])
  return new ThawError(known, message, object == null ? {} : { object })
}

function viewOf({ doneBytes, totalBytes, ownBytes }: PushProgress): ProgressView {
  return { doneBytes, totalBytes, text: `${formatBytes(ownBytes)} changed` }
}

function summaryOf({ counts: { ownBytes, inheritedBytes }, images, durationMs }: PushResult): string {
  return `${formatBytes(ownBytes)} changed, ${formatBytes(inheritedBytes)} taken over, ${formatCount(images.length, 'image')}, ${formatDuration(durationMs)}`
}
