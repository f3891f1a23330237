/**
 * Buffers that all NBD sockets of one pager share: a socket uses them within its turn, and the pager gives one turn at a time. So an idle connection has no buffer.
 */
import { TRANSFER_BYTES_MAX } from '../../pager.ts'
import type { Native } from '../../util/native.ts'
import { SHORT_BYTES_MAX } from './handshake.ts'
import { ReplyBuffer, WIRE_BUFFER_BYTES } from './wire.ts'

/** Taken from a socket at once. */
const ARRIVAL_BYTES: number = 2 ** 17
/** What a connection keeps for a peer that does not take it: one read, the replies of one turn, and small ones that come after them. */
export const KEPT_BYTES: number = TRANSFER_BYTES_MAX + WIRE_BUFFER_BYTES + 2 ** 16
/** Such buffers that are held for the next who needs one. */
const FREE_MAX = 4
/** struct msghdr (<sys/socket.h>). */
const MESSAGE_BYTES = 56
const VECTORS_OFFSET = 16
const VECTOR_COUNT_OFFSET = 24
const WORD = 2 ** 32

const memories = new WeakMap<Native, SocketMemory>()

/** That of this pager. */
export function socketMemory(native: Native): SocketMemory {
  let memory = memories.get(native)
  if (memory === undefined) {
    memory = new SocketMemory(native)
    memories.set(native, memory)
  }
  return memory
}

export class SocketMemory {
  /** Bytes of the last turn that were not whole are put right before what arrives. */
  readonly received: Buffer = ownBuffer(SHORT_BYTES_MAX + ARRIVAL_BYTES)
  readonly arrivesAt: number = SHORT_BYTES_MAX
  /** Where it arrives. */
  readonly arrival: Buffer = this.received.subarray(SHORT_BYTES_MAX)
  /** Replies of the wire that has its turn. */
  readonly replies: ReplyBuffer = new ReplyBuffer()
  readonly repliesAddress: number
  /** struct msghdr, for `setVectors`. */
  readonly message: Buffer = Buffer.alloc(MESSAGE_BYTES)
  readonly #native: Native
  readonly #free: Buffer[] = []
  #vectors: Uint8Array | undefined
  #vectorsAddress = 0

  constructor(native: Native) {
    this.#native = native
    this.repliesAddress = native.addressOf(this.replies.bytes)
  }

  /** Has `message` send these vectors from `first` on. */
  setVectors(vectors: Uint8Array, first: number, count: number): void {
    if (vectors !== this.#vectors) {
      this.#vectors = vectors
      this.#vectorsAddress = this.#native.addressOf(vectors)
    }
    const address = this.#vectorsAddress + first * 16
    this.message.writeUInt32LE(address % WORD, VECTORS_OFFSET)
    this.message.writeUInt32LE(Math.floor(address / WORD), VECTORS_OFFSET + 4)
    this.message.writeUInt32LE(count - first, VECTOR_COUNT_OFFSET)
  }

  /** A buffer of KEPT_BYTES. */
  takeKept(): Buffer {
    return this.#free.pop() ?? ownBuffer(KEPT_BYTES)
  }

  giveBackKept(kept: Buffer): void {
    if (this.#free.length < FREE_MAX) this.#free.push(kept)
  }
}

/** Not a part of Node's pool, so that it stays where it is; its memory is committed when it is first used. */
function ownBuffer(sizeBytes: number): Buffer {
  return Buffer.from(new ArrayBuffer(sizeBytes))
}
