/**
 * `thaw restore`, and its short forms `mount` and `serve`: one restore in the foreground, until it is told to stop or its VMM is gone.
 *
 * Standard output has one line when everything is served, `ready RESTORE PATH...`; with `--json` it has a document for each event. People are told of events on standard error.
 * By then the restore can be found by `thaw ps` and `thaw commit`.
 */
import { basename, dirname } from 'node:path'
import {
  mount,
  notifySupervisor,
  type Restore,
  type RestoreEvent,
  type Snapshot,
  serveNbd,
  serveUffd,
  ThawError,
  type UffdEnd,
} from '../index.ts'
import { readCacheSettings } from './cache-settings.ts'
import { Caches } from './caches.ts'
import { connectWithKeys } from './connect.ts'
import { EndFailed } from './exit.ts'
import { oneLine } from './format.ts'
import type { Invocation } from './invocation.ts'
import { OnResume } from './on-resume.ts'
import type { Output } from './output.ts'
import type { FrontEndRequest, RestoreSettings } from './restore-arguments.ts'
import { RestoreEvents } from './restore-events.ts'
import { findRunning } from './running.ts'
import { stateFolder } from './state-folder.ts'

/** What of a front end the command waits for. */
interface Served {
  readonly path: string
  /** Settles when it has ended; with why, if that is a failure. */
  readonly ended: Promise<string | undefined>
  /** It ends with its VMM. */
  readonly isVmm?: boolean
}

/** @throws UsageError, and what the library throws; EndFailed once guests were served */
export async function runRestore(
  invocation: Invocation,
  ref: string,
  requests: readonly FrontEndRequest[],
  settings: RestoreSettings,
): Promise<void> {
  const stage = { isReady: false }
  try {
    await serveAll(invocation, ref, requests, settings, stage)
  } catch (error) {
    throw stage.isReady ? new EndFailed(error) : error
  }
}

async function serveAll(
  invocation: Invocation,
  ref: string,
  requests: readonly FrontEndRequest[],
  { overlay, id, pageDeadlineMs, spinMicroseconds, onResume }: RestoreSettings,
  stage: { isReady: boolean },
): Promise<void> {
  const { output, signal } = invocation
  if (id !== undefined) await requireUnused(invocation, id)
  await using caches = await Caches.open(invocation, readCacheSettings(invocation.flags), { spinMicroseconds })
  const { store } = await connectWithKeys(invocation, { cache: caches.cache })
  await using _ = store
  await using snapshot = await store.open(ref, { signal })
  await using hook = new OnResume(onResume, output)
  const events = new RestoreEvents(output)
  const onEvent = (event: RestoreEvent): void => {
    events.take(restore, event)
    if (event.kind === 'connected') hook.run(restore)
  }
  await using restore: Restore = await snapshot.restore({ id, overlay, pageDeadlineMs, onEvent })
  const served: Served[] = []
  try {
    for (const request of requests) served.push(await serve(snapshot, restore, request, signal))
    await caches.announceRestores(store, [restore])
    sayReady(output, restore, served)
    stage.isReady = true
  } finally {
    events.release()
  }
  await notifySupervisor('READY=1')
  const failure = await Promise.race([ended(served), aborted(signal)])
  await notifySupervisor('STOPPING=1')
  if (failure !== undefined) throw new ThawError('UNAVAILABLE', failure, { object: restore.id })
}

/** @throws CONFLICT if a restore of that id runs: nobody could tell the two apart */
async function requireUnused({ flags, signal }: Invocation, id: string): Promise<void> {
  const found = await findRunning(stateFolder(readCacheSettings(flags).stateDir), signal)
  const other = found.find(({ answer }) => answer?.restores.some(restore => restore.id === id))
  if (other !== undefined) throw new ThawError('CONFLICT', `restore ${id} runs already, in process ${other.pid}`, { object: id })
}

function sayReady(output: Output, { id, snapshot }: Restore, served: readonly Served[]): void {
  const paths = served.map(({ path }) => path)
  if (output.json) output.item({ event: 'ready', restore: id, snapshot: snapshot.id, paths })
  else output.lines([oneLine(`ready ${id} ${paths.join(' ')}`)])
}

async function serve(snapshot: Snapshot, restore: Restore, request: FrontEndRequest, signal: AbortSignal): Promise<Served> {
  switch (request.kind) {
    case 'fuse': {
      const { dir, options, writtenElsewhere } = request
      const writable = options.writable && snapshot.images.map(({ name }) => name).filter(name => !writtenElsewhere.includes(name))
      const { path, ended } = await mount(restore, dir, { ...options, writable })
      return { path, ended: ended.then(end => (end.reason === 'failed' ? `the mount failed: ${end.error.message}` : undefined)) }
    }
    case 'nbd': {
      const { uri, closed } = await serveNbd(restore, request.image, request.options)
      const failure = closed.then(end => (end.reason === 'failed' ? `serving NBD failed: ${end.why}` : undefined))
      return { path: request.options.socket ?? uri, ended: failure }
    }
    case 'uffd': {
      const { socket, closed } = await serveUffd(restore, request.image, request.options)
      const failure = closed.then(failureOf)
      return { path: socket, ended: failure, isVmm: true }
    }
    case 'file':
      await snapshot.pull(dirname(request.path), {
        images: [request.image],
        fileNames: { [request.image]: basename(request.path) },
        signal,
      })
      return { path: request.path, ended: Promise.resolve(undefined) }
  }
}

/** The first failure, or when the VMMs are gone: of disks and files nobody knows when the last reader has come. Without a VMM, when everything has ended. */
async function ended(served: readonly Served[]): Promise<string | undefined> {
  const { promise, resolve } = Promise.withResolvers<string | undefined>()
  for (const { ended } of served) void ended.then(failure => failure !== undefined && resolve(failure))
  const vmms = served.filter(({ isVmm }) => isVmm)
  const last = (vmms.length > 0 ? vmms : served).map(({ ended }) => ended)
  void Promise.all(last).then(failures => resolve(failures.find(failure => failure !== undefined)))
  return await promise
}

/** Being told to stop is how these commands end: it is no failure. */
async function aborted(signal: AbortSignal): Promise<undefined> {
  if (signal.aborted) return
  const { promise, resolve } = Promise.withResolvers<undefined>()
  signal.addEventListener('abort', () => resolve(undefined), { once: true })
  await promise
}

function failureOf(end: UffdEnd): string | undefined {
  if (end.reason === 'killed') return `the VMM was killed: ${end.why}`
  return end.reason === 'closed' && end.why !== undefined ? `serving userfaultfd failed: ${end.why}` : undefined
}
