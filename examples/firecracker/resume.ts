/**
 * Resumes a snapshot in a Firecracker that was just started, its memory coming from the store by userfaultfd; commits it if asked to.
 *
 *     node examples/firecracker/resume.ts REF --api SOCKET --folder DIR [options]
 *
 *     --api SOCKET         Firecracker's --api-sock, on the host
 *     --folder DIR         where the state, the pager's socket and diff files go; one for each VM
 *     --jail DIR           the jail's root: Firecracker sees DIR/x as /x; --folder lies below it
 *     --uid N --gid N      whom the jailer makes Firecracker: the files are given to them
 *     --tap IFACE=DEVICE   another TAP device for a network interface; repeatable
 *     --vsock PATH         another socket for the vsock device, as Firecracker sees it
 *     --clock              advance the guest's kvm-clock to now (x86-64)
 *     --on-resume CMD      as `thaw serve` takes it
 *     --commit TAG         on Enter: pause, take a diff snapshot, commit it as TAG
 *
 * Store and keyring are those that `thaw` finds here. Starting Firecracker, its jail and its network is the platform's job, not shown.
 */
import { chown, mkdir } from 'node:fs/promises'
import { isAbsolute, join, relative, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { runMain } from '../../bench/interrupt.ts'
import { HERE, run, Serving } from '../thaw.ts'
import { FirecrackerApi } from './api.ts'

const SOCKET_MODE = '600'

interface Options {
  readonly ref: string
  readonly api: FirecrackerApi
  /** Absolute, on the host. */
  readonly folder: string
  readonly jail: string
  readonly owner: { readonly uid: number; readonly gid: number } | undefined
  readonly taps: readonly string[]
  readonly vsock: string | undefined
  readonly clock: boolean
  readonly onResume: string | undefined
  readonly commit: string | undefined
}

async function main(signal: AbortSignal): Promise<void> {
  const options = readOptions()
  const { ref, api, folder } = options
  await mkdir(folder, { recursive: true })
  await give(options, folder)

  step('Serving the memory …')
  const socket = join(folder, 'memory.sock')
  await using serving = await Serving.start(HERE, serveArguments(options, socket), signal)

  step('Fetching the state …')
  await run(HERE, ['pull', ref, folder, 'state'], signal)
  await give(options, join(folder, 'state'))

  step('Loading and resuming …')
  await api.load(loadBody(options, socket), signal)
  console.log(`  restore ${serving.restore} runs`)

  if (options.commit === undefined) return await serving.ended(signal)
  await enter(`Press Enter to commit it as ${options.commit}.`, signal)
  await commit(options, serving.restore, options.commit, signal)
}

function serveArguments({ ref, owner, onResume }: Options, socket: string): string[] {
  const jailed = owner === undefined ? [] : ['--socket-uid', `${owner.uid}`, '--socket-gid', `${owner.gid}`, '--socket-mode', SOCKET_MODE]
  const hook = onResume === undefined ? [] : ['--on-resume', onResume]
  return ['serve', 'uffd', ref, 'memory', '--socket', socket, ...jailed, ...hook]
}

function loadBody(options: Options, socket: string): Parameters<FirecrackerApi['load']>[0] {
  const { folder, taps, vsock, clock } = options
  const overrides = taps.map(tap => {
    const [iface_id = '', host_dev_name = ''] = tap.split('=')
    return { iface_id, host_dev_name }
  })
  return {
    snapshot_path: seen(options, join(folder, 'state')),
    mem_backend: { backend_type: 'Uffd', backend_path: seen(options, socket) },
    track_dirty_pages: true,
    resume_vm: true,
    ...(overrides.length > 0 && { network_overrides: overrides }),
    ...(vsock !== undefined && { vsock_override: { uds_path: vsock } }),
    ...(clock && { clock_realtime: true }),
  }
}

/** Leaves the VM paused: what it did after the diff would be in no snapshot. */
async function commit(options: Options, restore: string, tag: string, signal: AbortSignal): Promise<void> {
  const { api, folder } = options
  const [state, memory] = [join(folder, 'state.diff'), join(folder, 'memory.diff')]
  step('Taking a diff snapshot …')
  await api.pause(signal)
  await api.create({ snapshot_type: 'Diff', snapshot_path: seen(options, state), mem_file_path: seen(options, memory) }, signal)

  step('Committing …')
  const id = await run(HERE, ['commit', restore, '--diff', `memory=${memory}`, `state=${state}`, '--tag', tag], signal)
  console.log(`  ${id}\n\nThe VM is paused. End Firecracker.`)
}

/** A path of the host as Firecracker sees it. */
function seen({ jail }: Options, path: string): string {
  return join('/', relative(jail, path))
}

async function give({ owner }: Options, path: string): Promise<void> {
  if (owner !== undefined) await chown(path, owner.uid, owner.gid)
}

/** Waits for a line on standard input; the end of input is one too. */
async function enter(prompt: string, signal: AbortSignal): Promise<void> {
  console.log(`\n${prompt}`)
  const lines = createInterface({ input: process.stdin, signal })
  await new Promise<void>((resolve, reject) => {
    lines.once('line', () => resolve())
    lines.once('close', () => (signal.aborted ? reject(signal.reason) : resolve()))
  })
  lines.close()
}

function readOptions(): Options {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      api: { type: 'string' },
      folder: { type: 'string' },
      jail: { type: 'string', default: '/' },
      uid: { type: 'string' },
      gid: { type: 'string' },
      tap: { type: 'string', multiple: true, default: [] },
      vsock: { type: 'string' },
      clock: { type: 'boolean', default: false },
      'on-resume': { type: 'string' },
      commit: { type: 'string' },
    },
  })
  const [ref] = positionals
  const { api, uid, gid } = values
  if (ref === undefined || api === undefined || values.folder === undefined) throw new TypeError('REF, --api and --folder are needed')
  const [folder, jail] = [resolve(values.folder), resolve(values.jail)]
  const within = relative(jail, folder)
  if (within.startsWith('..') || isAbsolute(within)) throw new TypeError('--folder must lie below --jail')
  if (!values.tap.every(tap => /^[^=]+=[^=]+$/.test(tap))) throw new TypeError('--tap is IFACE=DEVICE')
  const owner = ownerOf(uid, gid)
  const { tap: taps, vsock, clock, 'on-resume': onResume, commit } = values
  return {
    ref,
    api: new FirecrackerApi(api, call => console.log(`  > ${call}`)),
    folder,
    jail,
    owner,
    taps,
    vsock,
    clock,
    onResume,
    commit,
  }
}

function ownerOf(uid: string | undefined, gid: string | undefined): Options['owner'] {
  if (uid === undefined && gid === undefined) return undefined
  if (uid === undefined || gid === undefined) throw new TypeError('--uid and --gid belong together')
  const owner = { uid: Number(uid), gid: Number(gid) }
  if (![owner.uid, owner.gid].every(Number.isSafeInteger)) throw new TypeError('--uid and --gid are numbers')
  return owner
}

function step(title: string): void {
  console.log(`\n${title}`)
}

await runMain('examples/firecracker', main)
