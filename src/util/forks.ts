/**
 * Large shared memory that a child process does not get. Starting a program forks, and the kernel then copies the page tables of the whole process and write-protects its
 * pages, while every thread that touches memory waits: 60 to 400 ms with an arena of 2 GiB, 2 to 8 ms without it. The child only starts a program and never looks there.
 */
import { tryLoadNative } from './native.ts'

/** <asm-generic/mman-common.h> */
const MADV_DONTFORK = 10
const PAGE_BYTES = 4096
/**
 * Memory of this size the C library maps on its own and unmaps when it is free. Smaller pieces may come from its heap and go back there: what is allocated in them later would be
 * missing in children, who need it. DEFAULT_MMAP_THRESHOLD_MAX of glibc on 64 bits.
 */
const MAPPED_BYTES_MIN = 32 * 2 ** 20

/** Memory that is too small to matter, or anywhere without Linux, stays as it is. */
export async function excludeFromForks(memories: readonly SharedArrayBuffer[]): Promise<void> {
  const large = memories.filter(({ byteLength }) => byteLength > MAPPED_BYTES_MIN)
  if (large.length === 0) return
  const native = await tryLoadNative()
  if (native === undefined) return
  for (const memory of large) {
    const start = native.addressOf(new Uint8Array(memory))
    const from = Math.ceil(start / PAGE_BYTES) * PAGE_BYTES
    const to = Math.floor((start + memory.byteLength) / PAGE_BYTES) * PAGE_BYTES
    // Refused by an old or a restricted kernel: then starting a program takes longer, and nothing else is different.
    native.madvise(from, to - from, MADV_DONTFORK)
  }
}
