/**
 * A userfaultfd, as its owner's pager uses it (userfaultfd(2), ioctl_userfaultfd(2), <linux/userfaultfd.h>; numbers are those of x86-64 and arm64).
 *
 * Calls return what was done, in bytes, or minus an errno. They allocate nothing: structures lie in one buffer, u64 are written as two u32 (addresses are below 2⁵³).
 *
 * Reading never waits. O_NONBLOCK alone would not do: the open file is shared with the VMM, which can take the flag back, and a read that waits would hold up every other guest of
 * the pager. From Linux 6.10 on a read can say for itself that it does not wait (RWF_NOWAIT); on older kernels the flag is what there is.
 */
import { readFileSync, readlinkSync } from 'node:fs'
import { ERRNO, type Native } from '../../util/native.ts'

/** Messages that one `read` takes. */
export const MESSAGES_MAX = 32
/** struct uffd_msg is 32 bytes: event u8 at 0, arguments from 8 on. */
const MESSAGE_WORDS = 8

/** `event` of a message. */
export const EVENT = { pageFault: 0x12, fork: 0x13, remap: 0x14, remove: 0x15, unmap: 0x16 } as const
/** UFFD_PAGEFAULT_FLAG_WP and _MINOR: faults for which there is no page to install. */
const FAULT_OTHER = 0b110

/** _IOR(0xAA, 0x01, struct uffdio_range), and so on. */
const UFFDIO_UNREGISTER = 0x8010aa01
const UFFDIO_WAKE = 0x8010aa02
const UFFDIO_COPY = 0xc028aa03
const UFFDIO_ZEROPAGE = 0xc020aa04
/** Linux 6.6. */
const UFFDIO_POISON = 0xc020aa08

/** UFFD_FEATURE_EVENT_FORK, _REMAP, _UNMAP: a VMM that moves its memory about is not one that can be served. */
const FEATURES_REFUSED = 0b100_0110
const O_NONBLOCK = 0o4000
const F_GETFL = 3
const F_SETFL = 4
const RWF_NOWAIT = 8
const WORD = 2 ** 32
/** Word of struct uffdio_copy and struct uffdio_zeropage in which the kernel says how far it came. */
const COPY_DONE = 8
const ZEROPAGE_DONE = 6

export class Userfaultfd {
  readonly fd: number
  readonly #native: Native
  // Buffers of their own: small ones that lie in the JavaScript heap move.
  readonly #words = new Uint32Array(new ArrayBuffer(40))
  readonly #bytes = new Uint8Array(this.#words.buffer)
  readonly #messages = new Uint32Array(new ArrayBuffer(MESSAGES_MAX * MESSAGE_WORDS * 4))
  readonly #messageBytes = new Uint8Array(this.#messages.buffer)
  /** struct iovec of `#messages`. */
  readonly #vector = new Uint32Array(new ArrayBuffer(16))
  readonly #vectorBytes = new Uint8Array(this.#vector.buffer)
  #canNowait = true

  /** @param fd a userfaultfd, which the caller closes */
  constructor(native: Native, fd: number) {
    this.fd = fd
    this.#native = native
    native.fcntl(fd, F_SETFL, native.fcntl(fd, F_GETFL, 0) | O_NONBLOCK)
    const address = native.addressOf(this.#messageBytes)
    this.#vector[0] = address
    this.#vector[1] = address / WORD
    this.#vector[2] = this.#messageBytes.length
  }

  /** Takes messages. @returns how many, or minus an errno: EAGAIN if there are none */
  read(): number {
    const native = this.#native
    let size = this.#canNowait ? native.preadv2(this.fd, this.#vectorBytes, 1, -1, RWF_NOWAIT) : -1
    if (size < 0 && this.#canNowait && native.errno() === ERRNO.EOPNOTSUPP) this.#canNowait = false
    // What is left is the moment between this look and the read.
    if (size < 0 && !this.#canNowait && this.wasMadeToBlock) return -ERRNO.EAGAIN
    if (size < 0 && !this.#canNowait) size = native.read(this.fd, this.#messageBytes, this.#messageBytes.length)
    return size < 0 ? -native.errno() : size / (MESSAGE_WORDS * 4)
  }

  /** Whether somebody took O_NONBLOCK back. The kernel then calls it ready at all times (POLLERR), whatever there is to read. */
  get wasMadeToBlock(): boolean {
    return (this.#native.fcntl(this.fd, F_GETFL, 0) & O_NONBLOCK) === 0
  }

  /** `event` of a message of the last `read`. */
  eventOf(message: number): number {
    return this.#messages[message * MESSAGE_WORDS]! & 0xff
  }

  /** Where a page fault was. */
  faultOf(message: number): number {
    return this.#u64(message * MESSAGE_WORDS + 4)
  }

  /** Whether a page is what the fault waits for: not leave to write to one. */
  isMissing(message: number): boolean {
    return (this.#messages[message * MESSAGE_WORDS + 2]! & FAULT_OTHER) === 0
  }

  /** First address of what was removed. */
  startOf(message: number): number {
    return this.#u64(message * MESSAGE_WORDS + 2)
  }

  /** Address behind it. */
  endOf(message: number): number {
    return this.#u64(message * MESSAGE_WORDS + 4)
  }

  /** The descriptor that came with a fork. */
  forkedFd(message: number): number {
    return this.#messages[message * MESSAGE_WORDS + 2]! | 0
  }

  /** Installs pages and wakes who waits for them. */
  copy(to: number, from: number, sizeBytes: number): number {
    this.#set(0, to)
    this.#set(2, from)
    this.#set(4, sizeBytes)
    this.#set(6, 0)
    return this.#install(UFFDIO_COPY, COPY_DONE, sizeBytes)
  }

  /** Installs pages of zeros and wakes who waits for them. Not for huge pages. */
  zero(to: number, sizeBytes: number): number {
    this.#set(0, to)
    this.#set(2, sizeBytes)
    this.#set(4, 0)
    return this.#install(UFFDIO_ZEROPAGE, ZEROPAGE_DONE, sizeBytes)
  }

  /** Whoever touches these pages gets SIGBUS. */
  poison(to: number, sizeBytes: number): number {
    this.#set(0, to)
    this.#set(2, sizeBytes)
    this.#set(4, 0)
    return this.#install(UFFDIO_POISON, ZEROPAGE_DONE, sizeBytes)
  }

  /** Whoever waits for these pages looks again. */
  wake(to: number, sizeBytes: number): number {
    return this.#range(UFFDIO_WAKE, to, sizeBytes)
  }

  /** From now on the kernel fills these pages itself, with zeros. */
  unregister(to: number, sizeBytes: number): number {
    return this.#range(UFFDIO_UNREGISTER, to, sizeBytes)
  }

  #range(request: number, to: number, sizeBytes: number): number {
    this.#set(0, to)
    this.#set(2, sizeBytes)
    return this.#native.ioctl(this.fd, request, this.#bytes) < 0 ? -this.#native.errno() : sizeBytes
  }

  /** What was done in part is told by EAGAIN with bytes in the structure; those bytes are installed, and the next call says what the reason is. */
  #install(request: number, doneWord: number, sizeBytes: number): number {
    this.#set(doneWord, 0)
    if (this.#native.ioctl(this.fd, request, this.#bytes) === 0) return sizeBytes
    const errno = this.#native.errno()
    const done = this.#words[doneWord]!
    return errno === ERRNO.EAGAIN && done > 0 && this.#words[doneWord + 1]! < 2 ** 31 ? done : -errno
  }

  #set(word: number, value: number): void {
    this.#words[word] = value
    this.#words[word + 1] = value / WORD
  }

  #u64(word: number): number {
    return this.#messages[word + 1]! * WORD + this.#messages[word]!
  }
}

/**
 * Why a descriptor that somebody handed over cannot be served from; undefined if it can. Calls that are meant for a userfaultfd must not reach whatever else it may be. /proc says what it
 * is, and which events it tells of.
 */
export function objectionTo(fd: number): string | undefined {
  const kind = kindOf(fd)
  if (kind === undefined) return 'nobody can say what its descriptor is: /proc is needed'
  if (kind !== USERFAULTFD) return 'its descriptor is not a userfaultfd'
  // "API:\taa:80000008:1ff": version, features of this one (and bit 31: it was set up), features that there are.
  const features = /^API:\s*[0-9a-f]+:([0-9a-f]+):/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'))?.[1]
  if (features === undefined || (Number.parseInt(features, 16) & FEATURES_REFUSED) === 0) return undefined
  return 'its userfaultfd tells of forks, moves or unmaps: only removes can be followed'
}

/** Whether whoever handed this descriptor over may come to wait for pages. */
export function mayBeUserfaultfd(fd: number): boolean {
  const kind = kindOf(fd)
  return kind === undefined || kind === USERFAULTFD
}

const USERFAULTFD = 'anon_inode:[userfaultfd]'

function kindOf(fd: number): string | undefined {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`)
  } catch {
    // No /proc.
    return undefined
  }
}
