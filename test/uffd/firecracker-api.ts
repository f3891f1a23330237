/**
 * A stand-in for Firecracker's API: answers the calls that load, pause and save a machine as Firecracker 1.16.1 does, and drives a VMM that has
 * memory but no guest (`vmm.c`).
 *
 * What it keeps of Firecracker's rules (src/firecracker/swagger/firecracker.yaml, docs/snapshotting/snapshot-support.md): a load is taken once and
 * before everything else; unknown members and wrong types are refused with 400 and a `fault_message`; a snapshot needs a paused machine; 204 is
 * success. The VMM has connected to the memory's backend before a load is answered. Its state file is that of the load with a line added, so
 * that a test can tell the two apart. Not here: every other resource, limits on sizes, File backends, Firecracker's wording of faults.
 */
import { appendFile, copyFile } from 'node:fs/promises'
import { createServer, type IncomingMessage, type Server } from 'node:http'
import { json } from 'node:stream/consumers'

/** The VMM that a load starts, as `vmm.ts` has it. */
export interface LoadedVmm extends AsyncDisposable {
  /** Writes a memory file: pages written since the load, pages resident, or all. */
  diff(file: string, which: 'written' | 'resident' | 'full'): Promise<unknown>
}

export interface FirecrackerApiOptions {
  /** Where the API listens. */
  readonly socket: string
  /** Starts a VMM that connects to the userfaultfd backend at `backendPath`; resolves once its handshake was sent. */
  readonly load: (backendPath: string) => Promise<LoadedVmm>
  /** The path on the host of one inside the jail; by default there is no jail. */
  readonly outside?: (path: string) => string
}

/** A call as it came, for a test to look at. */
export interface ApiCall {
  readonly method: string
  readonly path: string
  readonly body: unknown
}

type Check = 'string' | 'boolean' | readonly string[] | Shape
interface Shape {
  readonly required: Readonly<Record<string, Check>>
  readonly optional?: Readonly<Record<string, Check>>
  /** An array of such objects. */
  readonly many?: boolean
}

const LOAD: Shape = {
  required: { snapshot_path: 'string', mem_backend: { required: { backend_type: ['Uffd'], backend_path: 'string' } } },
  optional: {
    track_dirty_pages: 'boolean',
    resume_vm: 'boolean',
    clock_realtime: 'boolean',
    network_overrides: { required: { iface_id: 'string', host_dev_name: 'string' }, many: true },
    vsock_override: { required: { uds_path: 'string' } },
  },
}
const CREATE: Shape = { required: { snapshot_path: 'string', mem_file_path: 'string' }, optional: { snapshot_type: ['Full', 'Diff'] } }
const VM: Shape = { required: { state: ['Paused', 'Resumed'] } }

interface LoadBody {
  readonly snapshot_path: string
  readonly mem_backend: { readonly backend_path: string }
  readonly track_dirty_pages?: boolean
  readonly resume_vm?: boolean
}
interface CreateBody {
  readonly snapshot_path: string
  readonly mem_file_path: string
  readonly snapshot_type?: 'Full' | 'Diff'
}

/** Refused with 400. */
class Fault extends Error {}

interface Machine {
  readonly vmm: LoadedVmm
  readonly load: LoadBody
  isPaused: boolean
}

export class FirecrackerApiServer implements AsyncDisposable {
  /** Every call, in order, refused ones too. */
  readonly calls: ApiCall[] = []
  readonly #options: FirecrackerApiOptions
  readonly #server: Server
  #machine: Machine | undefined

  private constructor(options: FirecrackerApiOptions) {
    this.#options = options
    this.#server = createServer(async (request, response) => {
      try {
        await this.#answer(request)
        response.writeHead(204).end()
      } catch (error) {
        const message = error instanceof Error ? error.message : String(error)
        response.writeHead(error instanceof Fault ? 400 : 500).end(JSON.stringify({ fault_message: message }))
      }
    })
  }

  static async start(options: FirecrackerApiOptions): Promise<FirecrackerApiServer> {
    const api = new FirecrackerApiServer(options)
    await new Promise<void>((resolve, reject) => api.#server.once('error', reject).listen(options.socket, resolve))
    return api
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise<void>(resolve => this.#server.close(() => resolve()))
    await this.#machine?.vmm[Symbol.asyncDispose]()
  }

  async #answer(request: IncomingMessage): Promise<void> {
    const { method = '', url: path = '' } = request
    const body: unknown = await json(request).catch(() => undefined)
    this.calls.push({ method, path, body })
    switch (`${method} ${path}`) {
      case 'PUT /snapshot/load':
        return await this.#load(checked<LoadBody>(body, LOAD))
      case 'PATCH /vm':
        return this.#setState(checked<{ state: string }>(body, VM).state === 'Paused')
      case 'PUT /snapshot/create':
        return await this.#create(checked<CreateBody>(body, CREATE))
      default:
        throw new Fault(`Invalid request method and/or path: ${method} ${path}.`)
    }
  }

  async #load(load: LoadBody): Promise<void> {
    if (this.#machine !== undefined) throw new Fault('Loading a microVM snapshot not allowed after configuring boot-specific resources.')
    const vmm = await this.#options.load(this.#outside(load.mem_backend.backend_path))
    this.#machine = { vmm, load, isPaused: load.resume_vm !== true }
  }

  #setState(isPaused: boolean): void {
    if (this.#machine === undefined) throw new Fault('The requested operation is not supported before starting the microVM.')
    this.#machine.isPaused = isPaused
  }

  async #create({ snapshot_path: state, mem_file_path: memory, snapshot_type: type = 'Full' }: CreateBody): Promise<void> {
    const machine = this.#machine
    if (machine === undefined) throw new Fault('The requested operation is not supported before starting the microVM.')
    if (!machine.isPaused) throw new Fault('Cannot save the microVM state while it is running.')
    // Without a log of dirty pages Firecracker writes every page that is resident.
    const pages = type === 'Full' ? 'full' : machine.load.track_dirty_pages ? 'written' : 'resident'
    await machine.vmm.diff(this.#outside(memory), pages)
    await copyFile(this.#outside(machine.load.snapshot_path), this.#outside(state))
    await appendFile(this.#outside(state), `\nsaved ${type}\n`)
  }

  #outside(path: string): string {
    return this.#options.outside?.(path) ?? path
  }
}

/** `body` as the type that `shape` describes. */
function checked<T>(body: unknown, shape: Shape): T {
  check('body', body, shape)
  return body as T
}

function check(name: string, value: unknown, expected: Check): void {
  if (typeof expected === 'string') {
    if (typeof value !== expected) throw new Fault(`${name}: expected ${expected}`)
  } else if (isNames(expected)) {
    if (typeof value !== 'string' || !expected.includes(value)) throw new Fault(`${name}: expected one of ${expected.join(', ')}`)
  } else if (expected.many) {
    if (!Array.isArray(value)) throw new Fault(`${name}: expected an array`)
    for (const item of value) checkMembers(name, item, expected)
  } else checkMembers(name, value, expected)
}

function checkMembers(name: string, value: unknown, { required, optional = {} }: Shape): void {
  if (typeof value !== 'object' || value === null) throw new Fault(`${name}: expected an object`)
  const members = Object.entries(value)
  const unknown = members.find(([member]) => !(member in required) && !(member in optional))
  if (unknown !== undefined) throw new Fault(`${name}: unknown field ${unknown[0]}`)
  const missing = Object.keys(required).find(member => !(member in value))
  if (missing !== undefined) throw new Fault(`${name}: missing field ${missing}`)
  for (const [member, of] of members) check(member, of, required[member] ?? optional[member]!)
}

function isNames(check: Check): check is readonly string[] {
  return Array.isArray(check)
}
