/**
 * Huge pages (2 MiB), put together from where their 512 small ones lie: the kernel takes a huge page whole or not at all, in one piece of memory. What has come of one is kept in
 * its buffer, so that it pins nothing in the arena while the rest is fetched.
 *
 * A VMM has BUFFERS_MAX of them under way; others wait their turn.
 */
import { PAGE_BYTES } from '../../chunk.ts'
import type { ErrorCode } from '../../errors.ts'
import { ZERO } from '../../pagemap.ts'
import {
  type CalledLater,
  type Gathered,
  type ReadCallbacks,
  type ServedFaults,
  type ServedImage,
  TRANSFER_BYTES_MAX,
} from '../../pager.ts'
import type { Native } from '../../util/native.ts'
import { HUGE_PAGE_BYTES } from './handshake.ts'
import type { Region } from './regions.ts'

/** 8 MiB a VMM, made when it needs them. */
const BUFFERS_MAX = 4
const PARTS = HUGE_PAGE_BYTES / TRANSFER_BYTES_MAX

export interface HugePagesCallbacks extends CalledLater {
  /** A page that `find` did not have is there. Not called before `find` returned. */
  onReady(address: number): void
  onFailed(address: number, code: ErrorCode | undefined): void
}

/** A huge page that `find` cannot begin with now. */
export const NO_ROOM: number = -1
/** One that `onReady` or `onFailed` will tell of. */
export const UNDER_WAY: number = -2

export class HugePages {
  readonly #native: Native
  readonly #image: ServedImage
  readonly #pages: ServedFaults
  readonly #callbacks: HugePagesCallbacks
  readonly #buffers: HugeBuffer[] = []
  /** Where 2 MiB of zeros lie. */
  #zeros: { readonly bytes: Buffer; readonly address: number } | undefined

  constructor(native: Native, image: ServedImage, pages: ServedFaults, callbacks: HugePagesCallbacks) {
    this.#native = native
    this.#image = image
    this.#pages = pages
    this.#callbacks = callbacks
  }

  /** @returns the address to copy the huge page at `page` of a region from, until `release`; NO_ROOM; or UNDER_WAY */
  find(region: Region, page: number): number {
    const { chunk, count } = this.#pages.reader.locate(region.firstPage + page)
    if (region.isRemoved(page) || (chunk === ZERO && count >= HUGE_PAGE_BYTES / PAGE_BYTES)) return this.#zerosAddress()
    const address = region.addressOf(page)
    const buffer = this.#bufferOf(address) ?? this.#bufferOf(undefined) ?? this.#addBuffer()
    if (buffer === undefined) return NO_ROOM
    if (buffer.page === undefined) buffer.begin(address, (region.firstPage + page) * PAGE_BYTES)
    return buffer.isReady ? buffer.address : UNDER_WAY
  }

  /** The huge page at this address of the guest needs no buffer any more. */
  release(address: number): void {
    const buffer = this.#bufferOf(address)
    if (buffer?.isReady === true) buffer.page = undefined
  }

  close(): void {
    for (const buffer of this.#buffers) buffer.close()
  }

  #bufferOf(page: number | undefined): HugeBuffer | undefined {
    return this.#buffers.find(buffer => buffer.page === page)
  }

  #addBuffer(): HugeBuffer | undefined {
    if (this.#buffers.length === BUFFERS_MAX) return undefined
    const buffer = new HugeBuffer(this.#native, this.#image, this.#callbacks)
    this.#buffers.push(buffer)
    return buffer
  }

  #zerosAddress(): number {
    if (this.#zeros === undefined) {
      const bytes = Buffer.from(new ArrayBuffer(HUGE_PAGE_BYTES))
      this.#zeros = { bytes, address: this.#native.addressOf(bytes) }
    }
    return this.#zeros.address
  }
}

/** A buffer, and the huge page that is put together in it. */
class HugeBuffer {
  readonly address: number
  /** Of the guest: the huge page whose buffer this is; undefined: nobody's. */
  page: number | undefined
  readonly #image: ServedImage
  readonly #callbacks: HugePagesCallbacks
  readonly #parts: readonly Part[]
  #missing = 0
  #isBeginning = false

  constructor(native: Native, image: ServedImage, callbacks: HugePagesCallbacks) {
    const bytes = Buffer.from(new ArrayBuffer(HUGE_PAGE_BYTES))
    this.address = native.addressOf(bytes)
    this.#image = image
    this.#callbacks = callbacks
    this.#parts = Array.from({ length: PARTS }, (_, index) => {
      const target = bytes.subarray(index * TRANSFER_BYTES_MAX, (index + 1) * TRANSFER_BYTES_MAX)
      return new Part(target, {
        onBytes: () => this.#onPart(),
        onFailed: code => this.#callbacks.onFailed(this.page!, code),
        onBroken: error => this.#callbacks.onBroken(error),
      })
    })
  }

  get isReady(): boolean {
    return this.page !== undefined && this.#missing === 0
  }

  /** Fills the buffer with the image's bytes from `offset` on. */
  begin(page: number, offset: number): void {
    this.page = page
    this.#missing = PARTS
    this.#isBeginning = true
    for (const [index, part] of this.#parts.entries()) this.#image.read(offset + index * TRANSFER_BYTES_MAX, TRANSFER_BYTES_MAX, part)
    this.#isBeginning = false
  }

  #onPart(): void {
    this.#missing--
    if (this.#missing === 0 && !this.#isBeginning) this.#callbacks.onReady(this.page!)
  }

  close(): void {
    for (const part of this.#parts) this.#image.cancel(part)
  }
}

interface PartCallbacks extends CalledLater {
  onBytes(): void
  onFailed(code: ErrorCode | undefined): void
}

class Part implements ReadCallbacks {
  readonly #target: Buffer
  readonly #callbacks: PartCallbacks

  constructor(target: Buffer, callbacks: PartCallbacks) {
    this.#target = target
    this.#callbacks = callbacks
  }

  onBytes(bytes: Gathered): void {
    bytes.copyTo(this.#target)
    this.#callbacks.onBytes()
  }

  onReadFailed(code: ErrorCode | undefined): void {
    this.#callbacks.onFailed(code)
  }

  onBroken(error: unknown): void {
    this.#callbacks.onBroken(error)
  }
}
