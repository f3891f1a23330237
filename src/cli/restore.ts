/**
 * `thaw restore`, and its short forms `mount` and `serve`: one restore in the foreground, until it is told to stop or its guests are gone.
 *
 * Standard output has one line when everything is served, `ready RESTORE PATH...`; with `--json` it has a document for each event. People are told of events on standard error.
 */
import { basename, dirname } from 'node:path'
import { mount, notifyServiceManager, type Restore, type RestoreEvent, type Snapshot, serveNbd, serveUffd, ThawError } from '../index.ts'
import { readCacheSettings } from './cache-settings.ts'
import { Caches } from './caches.ts'
import { connectWithKeys } from './connect.ts'
import type { Invocation } from './invocation.ts'
import { OnResume } from './on-resume.ts'
import type { FrontEndRequest, RestoreSettings } from './restore-arguments.ts'

/** What of a front end the command waits for. */
interface Served {
  readonly path: string
  /** Settles when it has ended; with why, if that is a failure. */
  readonly ended: Promise<string | undefined>
}

/** @throws UsageError, and what the library throws */
export async function runRestore(
  invocation: Invocation,
  ref: string,
  requests: readonly FrontEndRequest[],
  { overlay, id, pageDeadlineMs, spinMicroseconds, onResume }: RestoreSettings,
): Promise<void> {
  const { output, signal } = invocation
  await using caches = await Caches.open(invocation, readCacheSettings(invocation.flags), { spinMicroseconds })
  const { store } = await connectWithKeys(invocation, { cache: caches.cache })
  await using _ = store
  await using snapshot = await store.open(ref, { signal })
  await using hook = new OnResume(onResume, output)
  const onEvent = (event: RestoreEvent): void => {
    tell(invocation, restore, event)
    if (event.kind === 'connected') hook.run(restore)
  }
  await using restore: Restore = await snapshot.restore({ id, overlay, pageDeadlineMs, onEvent })
  const served: Served[] = []
  for (const request of requests) served.push(await serve(snapshot, restore, request, signal))
  caches.announce(store, [restore])
  const paths = served.map(({ path }) => path)
  const { id: restoreId } = restore
  if (output.json) output.item({ event: 'ready', restore: restoreId, snapshot: snapshot.id, paths })
  else output.lines([`ready ${restoreId} ${paths.join(' ')}`])
  await notifyServiceManager('READY=1')
  const failure = await Promise.race([ended(served), aborted(signal)])
  await notifyServiceManager('STOPPING=1')
  if (failure !== undefined) throw new ThawError('UNAVAILABLE', failure, { object: restoreId })
}

async function serve(snapshot: Snapshot, restore: Restore, request: FrontEndRequest, signal: AbortSignal): Promise<Served> {
  switch (request.kind) {
    case 'fuse': {
      const { path, ended } = await mount(restore, request.dir, request.options)
      return { path, ended: ended.then(end => (end.reason === 'failed' ? `the mount failed: ${end.error.message}` : undefined)) }
    }
    case 'nbd': {
      const { uri, closed } = await serveNbd(restore, request.image, request.options)
      const failure = closed.then(end => (end.reason === 'failed' ? `serving NBD failed: ${end.why}` : undefined))
      return { path: request.options.socket ?? uri, ended: failure }
    }
    case 'uffd': {
      const { socket, closed } = await serveUffd(restore, request.image, request.options)
      return { path: socket, ended: closed.then(end => (end.reason === 'killed' ? `the VMM was killed: ${end.why}` : undefined)) }
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

/** The first failure, or when everything has ended. */
async function ended(served: readonly Served[]): Promise<string | undefined> {
  const failures = await Promise.all(served.map(({ ended }) => ended))
  return failures.find(failure => failure !== undefined)
}

/** Being told to stop is how these commands end: it is no failure. */
async function aborted(signal: AbortSignal): Promise<undefined> {
  if (signal.aborted) return
  const { promise, resolve } = Promise.withResolvers<undefined>()
  signal.addEventListener('abort', () => resolve(undefined), { once: true })
  await promise
}

function tell({ output }: Invocation, { id }: Restore, { kind, ...event }: RestoreEvent): void {
  if (output.json) output.item({ event: kind, restore: id, ...event })
  else output.note(`${event.path}: ${wordsOf({ kind, ...event } as RestoreEvent)}`)
}

function wordsOf(event: RestoreEvent): string {
  switch (event.kind) {
    case 'connected':
      return `connected${processOf(event.pid)}`
    case 'disconnected':
      return `disconnected${processOf(event.pid)}`
    case 'refused':
      return `refused a client${processOf(event.pid)}: ${event.reason}`
    case 'corrupt':
    case 'unreadable':
      return `page ${event.page} of ${event.image} cannot be had: ${event.code ?? 'an unexpected failure'}`
    case 'killed':
      return `killed process ${event.pid}: ${event.reason}`
    case 'closed':
      return `closed: ${event.reason}`
  }
}

function processOf(pid: number | undefined): string {
  return pid === undefined ? '' : ` (process ${pid})`
}
