/**
 * A pager: a thread that serves guests. It waits with epoll for the descriptors of its front ends (userfaultfds, /dev/fuse, NBD sockets) and for the engine's answers, takes from
 * the arena what is there, wants of the engine what is not, and answers when it has come. It has no keys, no promises, and allocates nothing for a page that is in memory.
 *
 *     descriptor readable ─▶ Watched.serve ─▶ ServedImage.read ─▶ in the arena or the overlay: answered at once
 *                                                             └─▶ missing: wanted of the engine, answered when it has come, or with an error at the deadline
 *
 * A restore belongs to one pager: only that thread reads its descriptors, issues its ioctls and writes its overlay, so nothing of a restore needs a lock. Everything here is
 * synchronous, and every callback is called on the pager's thread.
 *
 * This is what front ends see. The loop is in pager/loop.ts, images in pager/served-image.ts, misses in pager/wants.ts, the main thread's side in pager/threads.ts.
 */
import type { ErrorCode, Tier } from './errors.ts'
import type { ImageKind } from './manifest.ts'
import type { SharedOverlay } from './overlay/image-overlay.ts'
import type { ImageReader, SharedImage } from './reader.ts'
import type { Owner } from './util/gate.ts'
import type { Native } from './util/native.ts'

/** Most bytes of one `ServedImage.read` or `write`. Front ends whose protocol allows more split it. */
export const TRANSFER_BYTES_MAX: number = 2 ** 20

/** How a page that is not in memory may be waited for, before it is an error. The engine's own deadline may be what hangs. */
export const PAGE_DEADLINE_MS = 60_000

/** Something with a descriptor. */
export interface Watched {
  /**
   * Takes what its descriptor has, a bounded amount of it, and never waits. Called when epoll says that there is something (also an error or a hang-up), and while the pager spins.
   * @returns whether there was anything
   */
  serve(): boolean
  /** Called when the descriptor takes bytes again, if that is watched for. */
  onWritable?(): void
  /** One of the calls above threw: a bug. Whatever it serves must end, without a wrong answer. */
  onBroken(error: unknown): void
}

/** What descriptors are waited for with. */
export interface PagerLoop {
  /** Begins to watch for bytes to read. Hang-ups and errors are always told. */
  watch(fd: number, watched: Watched): void
  /** Changes what is watched for. With neither, hang-ups are still told. */
  rewatch(fd: number, interest: { readonly readable: boolean; readonly writable: boolean }): void
  /** Ends watching; before the descriptor is closed. `watched` is not called any more. Of one that this front end does not watch, nothing. */
  unwatch(fd: number): void
  /** Calls back once, in the loop, that many milliseconds or a little more from now. Returns what takes it back. */
  after(ms: number, callback: () => void): () => void
}

/** The descriptors that a front end opened. Should its thread end before it closes them, main does. */
export interface OwnedDescriptors {
  /** Right after it was opened, or received. Returns it. */
  own(fd: number): number
  /** Closes one that was given to `own`. */
  close(fd: number): void
}

/** What a front end is given. */
export interface FrontEndContext {
  readonly native: Native
  readonly descriptors: OwnedDescriptors
  readonly loop: PagerLoop
  /** The images of the restore, by name, in the order of the snapshot. */
  readonly images: ReadonlyMap<string, ServedImage>
  /** Tells the main thread; plain data. The front end's own half there knows what it means. */
  emit(event: FrontEndEvent): void
}

/** What a front end is given that installs pages. */
export interface FaultContext extends FrontEndContext {
  faultsOf(image: string): ServedFaults
}

/** Plain data. `kind` is the front end's own. */
export interface FrontEndEvent {
  readonly kind: string
}

/** A front end, on its pager's thread. */
export interface FrontEnd {
  /** Ends it: no callback of its requests is called any more, its descriptors are not watched any more and those it opened are closed. Idempotent. */
  close(): void
  /** A timer of its own threw: a bug. It ends, without a wrong answer, and says so. */
  onBroken(error: unknown): void
}

/**
 * What the guest wrote to pages [page, page + count) is lost: it had been told that it was written, and the overlay could not take it. Whoever reads them gets an error, and the
 * restore cannot be committed any more.
 */
export interface DamagedPages {
  readonly page: number
  readonly count: number
  /** Why; undefined: a bug. */
  readonly code: ErrorCode | undefined
}

/** Plain data that says what to serve; posted to the pager. `kind` chooses who does. */
export interface FrontEndSpec {
  readonly kind: string
}

/** An image as a pager is told of it. */
export interface PagedImage {
  readonly name: string
  readonly kind: ImageKind
  readonly image: SharedImage
  /** On whose behalf it is read. */
  readonly owner: Owner
  /** With a file: the image can be written to. Without: only the states of pages are kept. */
  readonly overlay: SharedOverlay | undefined
  /** Of `ServedFigures` (pager/figures.ts). */
  readonly figures: SharedArrayBuffer
}

/** Stretches of memory that together are what was read, in order. Good until the callback that was given it returns. */
export interface Gathered {
  readonly sizeBytes: number
  /** Structs iovec (<sys/uio.h>). The first is left for a header of the front end's own: set it with `setHeader`, or begin at `vectors.subarray(16)`. */
  readonly vectors: Uint8Array
  /** Structs in `vectors`, the header's included. */
  readonly vectorCount: number
  setHeader(address: number, sizeBytes: number): void
  /** Copies bytes from `from` on to `target`, as many as there are and fit. Returns how many. */
  copyTo(target: Uint8Array, from?: number): number
}

/** Whoever may be called back after a wait, when nobody up the stack is theirs. */
export interface CalledLater {
  /** What was called back after a wait threw: a bug. Their front end must end, without a wrong answer; nobody else does. */
  onBroken(error: unknown): void
}

/** Whoever reads. One read at a time. */
export interface ReadCallbacks extends CalledLater {
  onBytes(bytes: Gathered): void
  /** `code` undefined: a bug. Nothing of the read was given. */
  onReadFailed(code: ErrorCode | undefined): void
}

/** Whoever writes. One write at a time. */
export interface WriteCallbacks extends CalledLater {
  onWritten(): void
  /** NO_SPACE, DENIED (read-only), or why a page that was written to in part could not be read. Part of the write may have been done. */
  onWriteFailed(code: ErrorCode | undefined): void
}

/** Whoever waits for chunks, any number at a time. */
export interface ChunkWaiter extends CalledLater {
  /** The chunk is in this slot, which is pinned until this returns. */
  onChunk(chunk: number, slot: number, tier: Tier): void
  /** It cannot be had: the deadline passed, or its failure is not one that passes. */
  onChunkFailed(chunk: number, code: ErrorCode | undefined): void
}

/** Part of an image that is all zeros, or not known to be. One object an image, overwritten by the next `stretch`. */
export interface Stretch {
  isZero: boolean
  pages: number
}

/** Bytes of one image of one restore, on the thread of its pager: the overlay's where there are any, else the snapshot's. What files and disks are served from. */
export interface ServedImage {
  readonly name: string
  readonly kind: ImageKind
  readonly sizeBytes: number
  readonly pageCount: number
  readonly isWritable: boolean
  /** Whether something that was written to it was lost (`lose`). */
  readonly isDamaged: boolean
  /** Pages of the snapshot's image that are not zero. */
  readonly dataPages: number

  /**
   * Reads bytes [offset, offset + sizeBytes), which lie within the image; at most TRANSFER_BYTES_MAX. Calls back before it returns if everything is in memory, later otherwise;
   * once. What the callback throws before it returns is thrown here.
   */
  read(offset: number, sizeBytes: number, callbacks: ReadCallbacks): void
  /** Writes bytes to the overlay, within the image; at most TRANSFER_BYTES_MAX. `bytes` may be reused when this returns. Calls back as `read` does. */
  write(offset: number, bytes: Uint8Array, callbacks: WriteCallbacks): void
  /** Makes bytes [offset, offset + sizeBytes) zero, any number of them: of many, in several turns of the loop. */
  zero(offset: number, sizeBytes: number, callbacks: WriteCallbacks): void
  /**
   * A write failed of which its writer was told before that it was done. What lies in its pages is nobody's any more: to read it is CORRUPT, until all of a page is written again, and
   * the image cannot be committed.
   */
  lose(offset: number, sizeBytes: number): void
  /** Takes reads and writes of these callbacks back: they are not called any more. A write may be done or not. */
  cancel(who: ReadCallbacks | WriteCallbacks): void

  /** What begins at `page`, to at most the image's end. A page of zeros within a chunk counts as data. */
  stretch(page: number): Stretch
}

/** Pages of one image of one restore, as the snapshot has them. What page faults are served from. */
export interface ServedFaults {
  /** Where pages lie, and their slots. */
  readonly reader: Pick<ImageReader, 'locate' | 'pin' | 'unpin'>
  /** Address of a page in a slot. */
  addressOf(slot: number, page: number): number
  /** Has a chunk in memory. Never calls back before it returns. A waiter may want a chunk again that it waits for: it is told once, by the first deadline. */
  want(chunk: number, waiter: ChunkWaiter): void
  /** Tells the waiter nothing any more. */
  forget(waiter: ChunkWaiter): void
  /** Remembers that the guest gave pages back: they are zero in a child (overlay with states only). */
  markZero(page: number, count: number): void
  /** Counts a fault that was answered from memory at once, with so many pages. */
  countHit(pages: number): void
  countZeros(pages: number): void
  /** Counts what it had to `want`: a chunk that came, pages of it that were waited for, a page that could not be had. */
  countChunk(tier: Tier): void
  countMiss(pages: number, waitedMs: number): void
  countFailure(): void
}
