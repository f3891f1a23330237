/**
 * Firecracker's API as far as snapshots need it: HTTP with JSON bodies over a Unix socket. Names and rules are those of
 * `src/firecracker/swagger/firecracker.yaml` in Firecracker 1.16.1; Firecracker refuses bodies with members it does not know.
 */
import { request } from 'node:http'
import { json } from 'node:stream/consumers'
import { ThawError } from '../../src/index.ts'

/** Loading touches memory that comes from the store, and a full snapshot writes all of it. */
const REQUEST_TIMEOUT_MS = 120_000

/** Body of `PUT /snapshot/load`. Paths are as Firecracker sees them, inside its jail. */
export interface SnapshotLoad {
  /** The file with the state of the machine. */
  readonly snapshot_path: string
  readonly mem_backend: { readonly backend_type: 'File' | 'Uffd'; readonly backend_path: string }
  /** Makes later diff snapshots hold just what was written; it is not part of the snapshot, so it is asked for at each load. */
  readonly track_dirty_pages?: boolean
  readonly resume_vm?: boolean
  /** Gives a network interface another TAP device of the host. */
  readonly network_overrides?: readonly { readonly iface_id: string; readonly host_dev_name: string }[]
  /** Gives the vsock device another socket of the host. Since 1.16.0. */
  readonly vsock_override?: { readonly uds_path: string }
  /** x86-64: advances kvm-clock by the time that has passed since the snapshot. */
  readonly clock_realtime?: boolean
}

/** Body of `PUT /snapshot/create`. */
export interface SnapshotCreate {
  readonly snapshot_type: 'Full' | 'Diff'
  readonly snapshot_path: string
  readonly mem_file_path: string
}

export class FirecrackerApi {
  readonly #socket: string
  readonly #onCall: (call: string) => void

  /** `socket` is what Firecracker was given as `--api-sock`. Nothing is connected until a call is made. `onCall` is told each. */
  constructor(socket: string, onCall: (call: string) => void = () => undefined) {
    this.#socket = socket
    this.#onCall = onCall
  }

  /** Only before anything else was configured. With a `Uffd` backend Firecracker connects to it before it answers. */
  async load(body: SnapshotLoad, signal?: AbortSignal): Promise<void> {
    await this.#send('PUT', '/snapshot/load', body, signal)
  }

  async pause(signal?: AbortSignal): Promise<void> {
    await this.#send('PATCH', '/vm', { state: 'Paused' }, signal)
  }

  /** The machine must be paused. */
  async create(body: SnapshotCreate, signal?: AbortSignal): Promise<void> {
    await this.#send('PUT', '/snapshot/create', body, signal)
  }

  /** Throws UNAVAILABLE: with Firecracker's `fault_message` if it refuses, and if it cannot be reached. */
  async #send(method: 'PUT' | 'PATCH', path: string, body: object, signal?: AbortSignal): Promise<void> {
    this.#onCall(`${method} ${path} ${JSON.stringify(body)}`)
    const answer = Promise.withResolvers<void>()
    const deadline = AbortSignal.any([AbortSignal.timeout(REQUEST_TIMEOUT_MS), ...(signal ? [signal] : [])])
    const headers = { Accept: 'application/json', 'Content-Type': 'application/json' }
    const call = request({ socketPath: this.#socket, method, path, headers, signal: deadline }, async response => {
      if (response.statusCode === 204) return answer.resolve(void response.resume())
      const said: unknown = await json(response).catch(() => undefined)
      answer.reject(new ThawError('UNAVAILABLE', `Firecracker refuses ${method} ${path}: ${faultIn(said) ?? response.statusCode}`))
    })
    call.on('error', cause => answer.reject(signal?.reason ?? unreachable(this.#socket, cause)))
    call.end(JSON.stringify(body))
    await answer.promise
  }
}

function unreachable(socket: string, cause: Error): ThawError {
  return new ThawError('UNAVAILABLE', `no answer from Firecracker at ${socket}: ${cause.message}`, { cause, object: socket })
}

function faultIn(body: unknown): string | undefined {
  return typeof body === 'object' && body !== null && 'fault_message' in body ? String(body.fault_message) : undefined
}
