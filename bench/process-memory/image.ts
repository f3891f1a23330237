/** The memory of a stopped process as one flat, sparse file: which mappings, at which offsets, without the zero pages. */
import { type FileHandle, open, readFile } from 'node:fs/promises'
import { fromErrno } from '../../src/errors.ts'

const PAGE_BYTES = 4096
/** 512 KiB, a range of the store: a page keeps its place in its range, so equal memory makes equal ranges. */
const BLOCK_BYTES = 128 * PAGE_BYTES

const ZERO_BLOCK = Buffer.alloc(BLOCK_BYTES)
const ZERO_PAGE = ZERO_BLOCK.subarray(0, PAGE_BYTES)

/** A mapped part of the address space: `[start, end)`, multiples of the page size. */
interface Mapping {
  readonly start: number
  readonly end: number
}

/**
 * Kernel pages that /proc/PID/mem refuses (vvar) or that lie outside the process's half of the address space (vsyscall), beyond what a
 * number can hold exactly.
 */
const NOT_MEMORY = new Set(['[vvar]', '[vvar_vclock]', '[vsyscall]'])

/** Gives each block of the address space its block of the image, for the life of one capture. */
export class Layout {
  readonly #blocks = new Map<number, number>()

  /** Where the byte at `address` is in the image; gives it a place if its block has none. */
  offsetOf(address: number): number {
    const block = Math.floor(address / BLOCK_BYTES)
    const known = this.#blocks.get(block) ?? this.#blocks.size
    this.#blocks.set(block, known)
    return known * BLOCK_BYTES + (address % BLOCK_BYTES)
  }

  /** Of an image that holds every block seen so far. */
  get sizeBytes(): number {
    return this.#blocks.size * BLOCK_BYTES
  }
}

/** Copies what is mapped, readable and not zero into a new file at `path`. The process must be stopped. Throws DENIED. */
export async function copyMemory(pid: number, path: string, layout: Layout, signal: AbortSignal): Promise<void> {
  const memoryPath = `/proc/${pid}/mem`
  try {
    const mappings = readableMappings(await readFile(`/proc/${pid}/maps`, 'utf8'))
    await using memory = await open(memoryPath, 'r')
    await using image = await open(path, 'w')
    const block = Buffer.allocUnsafe(BLOCK_BYTES)
    for (const { start, end } of mappings) {
      for (let at = start; at < end; ) {
        signal.throwIfAborted()
        const length = Math.min(end - at, BLOCK_BYTES - (at % BLOCK_BYTES))
        const bytes = block.subarray(0, length)
        await readPages(memory, bytes, at)
        if (!bytes.equals(ZERO_BLOCK.subarray(0, length))) await writeNonZero(image, bytes, layout.offsetOf(at))
        at += length
      }
    }
  } catch (error) {
    throw fromErrno(error, 'cannot copy the memory of a process', memoryPath)
  }
}

/** In the order of their addresses, as the kernel lists them (proc_pid_maps(5)). */
function readableMappings(maps: string): readonly Mapping[] {
  const mappings: Mapping[] = []
  for (const line of maps.split('\n')) {
    const [, start, end, name = ''] = /^([0-9a-f]+)-([0-9a-f]+) r\S+ \S+ \S+ \d+ *(.*)$/.exec(line) ?? []
    if (start !== undefined && end !== undefined && !NOT_MEMORY.has(name)) {
      mappings.push({ start: Number.parseInt(start, 16), end: Number.parseInt(end, 16) })
    }
  }
  return mappings
}

/** Fills `into` from `address`; a page that cannot be read, such as one behind the end of a mapped file, becomes zero. */
async function readPages(memory: FileHandle, into: Buffer, address: number): Promise<void> {
  for (let done = 0; done < into.length; ) {
    const read = await readSome(memory, into.subarray(done), address + done)
    if (read === 0) into.fill(0, done, done + PAGE_BYTES)
    done += read === 0 ? PAGE_BYTES : read
  }
}

/** A number of whole pages, 0 if the first one cannot be read. */
async function readSome(memory: FileHandle, into: Buffer, address: number): Promise<number> {
  try {
    const { bytesRead } = await memory.read(into, 0, into.length, address)
    return bytesRead - (bytesRead % PAGE_BYTES)
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EIO') return 0
    throw error
  }
}

/** Writes the runs of pages that are not zero, each in one write. */
async function writeNonZero(image: FileHandle, bytes: Buffer, offset: number): Promise<void> {
  const isZero = (at: number): boolean => bytes.subarray(at, at + PAGE_BYTES).equals(ZERO_PAGE)
  for (let at = 0; at < bytes.length; ) {
    const start = at
    const zero = isZero(at)
    while (at < bytes.length && isZero(at) === zero) at += PAGE_BYTES
    if (!zero) await image.write(bytes, start, at - start, offset + start)
  }
}
