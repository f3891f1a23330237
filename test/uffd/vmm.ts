/**
 * Drives the stand-in VMM (`vmm.c`: what it does, and whose protocol it follows) from tests and benchmarks, and the plain C handler that is its simplest server.
 *
 * Every wait has a deadline. What is started ends when it is disposed of, or with this process.
 *
 * It knows nothing of thaw: what is a right page is decided in C, next to the page.
 */
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { compileC, type Ended, LineProcess } from './line-process.ts'

const VMM_SOURCE = join(import.meta.dirname, 'vmm.c')
const HANDLER_SOURCE = join(import.meta.dirname, '../../bench/frontends/handler.c')
const ANSWER_WITHIN_MS = 30_000
const NR_HUGEPAGES = '/proc/sys/vm/nr_hugepages'

/** Half of a page: what `write` fills with its byte. */
export const STAMPED_BYTES = 2048

/** Memory of the VMM that holds bytes [offsetBytes, offsetBytes + sizeBytes) of the image. */
export interface VmmRegion {
  readonly sizeBytes: number
  readonly offsetBytes: number
  /** Default 4096. Huge pages must be there: see `hugePages`. */
  readonly pageBytes?: 4096 | 2_097_152
  /** Default true. False: announced, but not accessible until `plug`, as memory to be hot-plugged. */
  readonly plugged?: boolean
}

/** How the handshake goes out; all but `whole` and `split` are none that a server should accept. `truncated` stops in the middle, `silent` sends nothing. */
export type Delivery =
  | 'whole'
  | 'split'
  | 'late-descriptor'
  | 'truncated'
  | 'oversized'
  | 'garbage'
  | 'empty'
  | 'not-array'
  | 'nonsense'
  | 'silent'

/** What is not true of the first region in the handshake; `overlap` announces it twice. */
export type Lie =
  | 'none'
  | 'overlap'
  | 'base-unaligned'
  | 'base-foreign'
  | 'base-in-kernel'
  | 'size-unaligned'
  | 'size-beyond-image'
  | 'size-absurd'
  | 'offset-unaligned'
  | 'offset-beyond-image'
  | 'offset-absurd'
  | 'page-size-odd'
  | 'page-size-absurd'

export interface VmmOptions {
  /** Where a server listens: a path. */
  readonly socket: string
  /** What the memory is compared with. */
  readonly image: string
  readonly regions: readonly VmmRegion[]
  /** How the page size is spelt. Firecracker sends `both` since 1.12, before that `page_size_kib`, and from 2.0 on `page_size`. Default `both`. */
  readonly fields?: 'both' | 'page_size' | 'page_size_kib'
  /** Fields that no version has. */
  readonly extraFields?: boolean
  readonly delivery?: Delivery
  readonly lie?: Lie
  /** How many are sent: the userfaultfd first, the others are useless. Default 1, at most 200. */
  readonly descriptors?: number
  /** How many connections are made, each with the same handshake. Default 1, at most 8. */
  readonly connections?: number
  /** The events negotiated: removals alone (default), none, or those of fork, mremap and munmap too. */
  readonly events?: 'remove' | 'none' | 'all'
  /** Whose process it is when it connects. Needs root. */
  readonly uid?: number
  /** A userfaultfd whose reads block. */
  readonly blocking?: boolean
  /** Memory that is announced but not registered. */
  readonly unregistered?: boolean
  /** Closes its userfaultfd once it was sent: from then on the server alone has it. */
  readonly forgetful?: boolean
  /** Something else in place of the userfaultfd. */
  readonly otherDescriptor?: boolean
}

export interface PageRead {
  /** The first 16 bytes, in hex. */
  readonly first: string
  /** FNV-1a, 64 bits, of all 4096, in hex. */
  readonly fnv1a: string
  readonly right: boolean
}

export interface Verified {
  readonly pages: number
  /** Pages that hold anything but what they must: the image's bytes, zeroes where removed, and what was written since. */
  readonly wrong: number
  readonly first?: { readonly region: number; readonly page: number }
}

export interface Touched {
  readonly touched: number
  /** Touches that faulted, for the server or within the kernel; the others found their page there. */
  readonly faults: number
  readonly wrong: number
  /** Times of all touches, in µs. */
  readonly p50: number
  readonly p90: number
  readonly p99: number
  readonly p999: number
  readonly max: number
}

export interface Raced {
  readonly reads: number
  readonly wrong: number
}

/** A VMM that has sent its handshake. Commands are done one after the other, in the order of the calls; regions and pages count from 0, pages of 4 KiB. */
export class Vmm implements AsyncDisposable {
  readonly #process: LineProcess

  constructor(process: LineProcess) {
    this.#process = process
  }

  get pid(): number {
    return this.#process.pid
  }

  /** The tail of what it wrote to standard error: the first wrong pages, for one. */
  get stderr(): string {
    return this.#process.stderr
  }

  /** When and how it ends. Waits for ever if it does not: see `ended`. */
  get exited(): Promise<Ended> {
    return this.#process.exited
  }

  /** As `exited`, but an error if that takes longer. */
  async ended(timeoutMs: number = ANSWER_WITHIN_MS): Promise<Ended> {
    return this.#process.within('has not ended', timeoutMs, this.exited)
  }

  read(region: number, page: number): Promise<PageRead> {
    return this.#ask(['read', region, page])
  }

  verify(region: number, from: number, count: number): Promise<Verified> {
    return this.#ask(['verify', region, from, count])
  }

  /** Every page of every plugged region. */
  verifyAll(): Promise<Verified> {
    return this.#ask(['verify-all'])
  }

  /** Touches pages that it has not touched yet, each once, in an order made from `seed`, by several threads; then checks them. `pauseUs` is slept before each. */
  touchRandom(run: {
    readonly count: number
    readonly seed: number
    readonly threads?: number
    readonly pauseUs?: number
  }): Promise<Touched> {
    return this.#ask(['touch-random', run.count, run.seed, run.threads ?? 1, run.pauseUs ?? 0])
  }

  /** Fills the first STAMPED_BYTES of each page with `byte`. */
  async write(region: number, from: number, byte: number, count = 1): Promise<void> {
    await this.#ask(['write', region, from, byte, count])
  }

  /** Gives pages back, as a balloon does; huge ones whole. */
  async remove(region: number, from: number, count: number): Promise<void> {
    await this.#ask(['remove', region, from, count])
  }

  /** As `remove`, from another thread, while `readers` threads read the very same pages. */
  removeUnderReaders(region: number, from: number, count: number, readers: number): Promise<Raced> {
    return this.#ask(['remove-thread', region, from, count, readers])
  }

  /** Threads that read at random, one that removes and one that writes, everything checked. */
  storm(run: { readonly seconds: number; readonly readers: number; readonly seed?: number }): Promise<Raced> {
    return this.#ask(['storm', run.seconds, run.readers, run.seed ?? 0], run.seconds * 1000 + ANSWER_WITHIN_MS)
  }

  /** Writes a sparse memory file of its plugged regions: pages written since the start, those in memory, or all. Resolves to how many pages hold data. */
  async diff(file: string, which: 'written' | 'resident' | 'full'): Promise<number> {
    return (await this.#ask<{ pages: number }>(['diff', file, which])).pages
  }

  /** The code of the SIGBUS that reading this page brings, or 0. Poison is 4, BUS_MCEERR_AR, or 2, BUS_ADRERR, where kernels lack CONFIG_MEMORY_FAILURE. Unexpected ones end the process. */
  async expectBus(region: number, page: number): Promise<number> {
    return (await this.#ask<{ bus: number }>(['expect-bus', region, page])).bus
  }

  /** Poisons a page, as its server would. */
  async poison(region: number, page: number): Promise<void> {
    await this.#ask(['poison', region, page])
  }

  /** Resolves before it reads that page; commands after this one are answered when it has come. */
  async hang(region: number, page: number): Promise<void> {
    await this.#ask(['hang', region, page])
  }

  /** Ends abruptly, with 0, after that many reads by so many threads: some are waiting for their page then. */
  async die(reads: number, threads: number): Promise<Ended> {
    this.#process.tell(`die ${reads} ${threads}`)
    return this.ended()
  }

  /** Makes a region accessible that was not. */
  async plug(region: number): Promise<void> {
    await this.#ask(['plug', region])
  }

  /** Forks that many children, which end at once. With `events: 'all'` each waits for its server. */
  async fork(count: number): Promise<void> {
    await this.#ask(['fork', count])
  }

  /** Unmaps pages, which must not be touched afterwards. */
  async unmap(region: number, from: number, count: number): Promise<void> {
    await this.#ask(['unmap', region, from, count])
  }

  /** Closes its connections, and lives on. */
  async closeSocket(): Promise<void> {
    await this.#ask(['close-socket'])
  }

  /** Has reads of its userfaultfd wait, the server's too. */
  async block(): Promise<void> {
    await this.#ask(['block'])
  }

  /** Whether the server hangs up on its last connection within that time. */
  async awaitHangup(timeoutMs: number): Promise<boolean> {
    return (await this.#ask<{ hangup: boolean }>(['await-hangup', timeoutMs], timeoutMs + ANSWER_WITHIN_MS)).hangup
  }

  async exit(code = 0): Promise<Ended> {
    this.#process.tell(`exit ${code}`)
    return this.ended()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#process[Symbol.asyncDispose]()
  }

  async #ask<T>(words: readonly (string | number)[], timeoutMs: number = ANSWER_WITHIN_MS): Promise<T> {
    const command = words.join(' ')
    this.#process.tell(command)
    const answer: T & { readonly error?: string } = JSON.parse(await this.#process.line(command, timeoutMs))
    if (answer.error !== undefined) throw new Error(`vmm: ${command}: ${answer.error}`)
    return answer
  }
}

/** Starts one; resolves when it has sent its handshake. Needs root, or a userfaultfd for everyone. */
export async function startVmm(options: VmmOptions): Promise<Vmm> {
  const process = new LineProcess(await compileC(VMM_SOURCE), vmmArguments(options))
  await readyOrGone(process, 'start of the VMM')
  return new Vmm(process)
}

/** The plain C handler, at work for one VMM; it ends, with 0, when that hangs up. */
export interface Handler extends AsyncDisposable {
  readonly pid: number
  readonly exited: Promise<Ended>
}

/** Starts a handler; resolves when a VMM can connect. `pageCache`: the image is in memory before that. */
export async function startHandler(options: {
  readonly socket: string
  readonly image: string
  readonly pageCache?: boolean
}): Promise<Handler> {
  const process = new LineProcess(await compileC(HANDLER_SOURCE), [
    options.socket,
    options.image,
    ...(options.pageCache ? ['--page-cache'] : []),
  ])
  await readyOrGone(process, 'start of the handler')
  return process
}

/**
 * Sets `count` huge pages of 2 MiB aside until it is disposed of. Take one more than the regions have: UFFDIO_COPY takes a second one for the moment when its source
 * is not in page tables yet, and fails with ENOMEM if there is none. Not for two processes at once: the kernel has one number for all.
 * @throws if the kernel has not as many
 */
export async function hugePages(count: number): Promise<AsyncDisposable> {
  const reserved = async (): Promise<number> => Number(await readFile(NR_HUGEPAGES, 'utf8'))
  const before = await reserved()
  await writeFile(NR_HUGEPAGES, `${before + count}`)
  const giveBack = async (): Promise<void> => writeFile(NR_HUGEPAGES, `${before}`)
  const got = (await reserved()) - before
  if (got < count) {
    await giveBack()
    throw new Error(`the kernel has ${got} huge pages to give, ${count} are needed: memory is scarce or scattered`)
  }
  return { [Symbol.asyncDispose]: giveBack }
}

function vmmArguments(options: VmmOptions): string[] {
  const regions = options.regions.map(({ sizeBytes, offsetBytes, pageBytes = 4096, plugged = true }) => [
    plugged ? '--region' : '--unplugged',
    `${sizeBytes}@${offsetBytes}:${pageBytes}`,
  ])
  const valued = (['socket', 'image', 'fields', 'delivery', 'lie', 'descriptors', 'connections', 'events', 'uid'] as const).map(name =>
    options[name] === undefined ? [] : [`--${name}`, `${options[name]}`],
  )
  const flags = (
    [
      ['extraFields', 'extra-fields'],
      ['blocking', 'blocking'],
      ['unregistered', 'unregistered'],
      ['forgetful', 'forgetful'],
      ['otherDescriptor', 'other-descriptor'],
    ] as const
  ).map(([name, flag]) => (options[name] ? [`--${flag}`] : []))
  return [...valued, ...regions, ...flags].flat()
}

/** The first line says that it is ready; what gets no further is ended. */
async function readyOrGone(process: LineProcess, what: string): Promise<void> {
  try {
    await process.line(what, ANSWER_WITHIN_MS)
  } catch (error) {
    await process[Symbol.asyncDispose]()
    throw error
  }
}
