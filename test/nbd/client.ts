/** The client's side of NBD, byte by byte: what tests send, and what they make of what comes back. */
import { PAGE_BYTES } from '../../src/chunk.ts'
import { CHUNK, OPTION, REQUEST_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC } from '../../src/frontend/nbd/protocol.ts'
import { Session } from '../../src/frontend/nbd/session.ts'
import type { TurnGiver } from '../../src/frontend/nbd/transmission.ts'
import { ReplyBuffer, type Wire } from '../../src/frontend/nbd/wire.ts'
import type { Gathered } from '../../src/pager.ts'
import type { FakeImage } from './fake-image.ts'

/** FIXED_NEWSTYLE and NO_ZEROES. */
export const CLIENT_FLAGS: Buffer = u32(3)

export function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2)
  bytes.writeUInt16BE(value)
  return bytes
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

export function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64BE(BigInt(value))
  return bytes
}

export function option(number: number, data: Buffer = Buffer.alloc(0), sizeBytes: number = data.length): Buffer {
  return Buffer.concat([Buffer.from('IHAVEOPT'), u32(number), u32(sizeBytes), data])
}

export function text(value: string): Buffer {
  return Buffer.concat([u32(Buffer.byteLength(value)), Buffer.from(value)])
}

/** Data of INFO and GO. */
export function go(name: string, ...information: readonly number[]): Buffer {
  return Buffer.concat([text(name), u16(information.length), ...information.map(u16)])
}

/** Data of SET_META_CONTEXT and LIST_META_CONTEXT. */
export function contexts(name: string, ...queries: readonly string[]): Buffer {
  return Buffer.concat([text(name), u32(queries.length), ...queries.map(text)])
}

export interface Asked {
  readonly flags?: number
  readonly cookie?: number
  readonly offset?: number
  readonly length?: number
  readonly payload?: Buffer
}

export function request(command: number, { flags = 0, cookie = 1, offset = 0, length = 0, payload = Buffer.alloc(0) }: Asked = {}): Buffer {
  return Buffer.concat([u32(REQUEST_MAGIC), u16(flags), u16(command), u64(cookie), u64(offset), u32(length || payload.length), payload])
}

/** Replies to options: the option, the type and the data of each. */
export function optionReplies(bytes: Buffer): { option: number; type: number; data: Buffer }[] {
  const replies = []
  for (let at = 0; at < bytes.length; at += 20 + bytes.readUInt32BE(at + 16)) {
    const data = bytes.subarray(at + 20, at + 20 + bytes.readUInt32BE(at + 16))
    replies.push({ option: bytes.readUInt32BE(at + 8), type: bytes.readUInt32BE(at + 12), data })
  }
  return replies
}

export type Reply =
  | { readonly kind: 'simple'; readonly cookie: number; readonly error: number; readonly data: Buffer }
  | { readonly kind: 'chunk'; readonly cookie: number; readonly type: number; readonly isDone: boolean; readonly data: Buffer }

/** Replies to requests. @param sizeOf of the data of a simple reply without error, by its cookie */
export function replies(bytes: Buffer, sizeOf: (cookie: number) => number = () => 0): Reply[] {
  const found: Reply[] = []
  for (let at = 0; at < bytes.length; ) {
    const magic = bytes.readUInt32BE(at)
    const cookie = Number(bytes.readBigUInt64BE(at + 8))
    if (magic === SIMPLE_REPLY_MAGIC) {
      const error = bytes.readUInt32BE(at + 4)
      const sizeBytes = error === 0 ? sizeOf(cookie) : 0
      found.push({ kind: 'simple', cookie, error, data: bytes.subarray(at + 16, at + 16 + sizeBytes) })
      at += 16 + sizeBytes
    } else if (magic === STRUCTURED_REPLY_MAGIC) {
      const sizeBytes = bytes.readUInt32BE(at + 16)
      const data = bytes.subarray(at + 20, at + 20 + sizeBytes)
      found.push({ kind: 'chunk', cookie, type: bytes.readUInt16BE(at + 6), isDone: (bytes.readUInt16BE(at + 4) & 1) === 1, data })
      at += 20 + sizeBytes
    } else throw new Error(`no reply begins at byte ${at}`)
  }
  return found
}

/** What chunks of a read say bytes [offset, offset + length) are; bytes that none of them told are 0xee. */
export function assemble(chunks: readonly Reply[], offset: number, length: number): Buffer {
  const bytes = Buffer.alloc(length, 0xee)
  for (const chunk of chunks) {
    if (chunk.kind !== 'chunk' || (chunk.type !== CHUNK.offsetData && chunk.type !== CHUNK.offsetHole)) continue
    const at = Number(chunk.data.readBigUInt64BE()) - offset
    if (chunk.type === CHUNK.offsetData) chunk.data.copy(bytes, at, 8)
    else bytes.fill(0, at, at + chunk.data.readUInt32BE(8))
  }
  return bytes
}

/** Takes all, or nothing while it is held up. */
export class MemoryWire implements Wire {
  readonly #replies = new ReplyBuffer()
  readonly buffer: Buffer = this.#replies.bytes
  #sent: Buffer[] = []
  /** As many bytes as the peer takes. */
  room: number = Number.POSITIVE_INFINITY
  keptBytes = 0
  keptBytesMax = 0

  get isBlocked(): boolean {
    return this.keptBytes > 0
  }

  hasRoom(sizeBytes: number): boolean {
    return this.keptBytes + sizeBytes <= 64 * PAGE_BYTES
  }

  reserve(sizeBytes: number): number {
    return this.#replies.reserve(this, sizeBytes)
  }

  send(bytes: Gathered): void {
    this.flush()
    const copy = Buffer.alloc(bytes.sizeBytes)
    bytes.copyTo(copy)
    this.#push(copy)
  }

  flush(): void {
    const reserved = this.#replies.reservedBy(this)
    this.#push(Buffer.from(this.buffer.subarray(0, reserved)))
    this.#replies.clear()
  }

  #push(bytes: Buffer): void {
    this.#sent.push(bytes)
    const taken = this.keptBytes > 0 ? 0 : Math.min(this.room, bytes.length)
    this.room -= taken
    this.keptBytes += bytes.length - taken
    this.keptBytesMax = Math.max(this.keptBytesMax, this.keptBytes)
  }

  /** The peer takes that many bytes more. */
  drain(sizeBytes: number): void {
    const taken = Math.min(sizeBytes, this.keptBytes)
    this.keptBytes -= taken
    this.room = sizeBytes - taken
  }

  /** What was sent since this was asked last. */
  takeSent(): Buffer {
    const sent = Buffer.concat(this.#sent)
    this.#sent = []
    return sent
  }
}

/** A session and its peer, and who gives the turns. */
export class Talk implements TurnGiver {
  readonly wire = new MemoryWire()
  readonly session: Session
  readonly unreadable: (string | undefined)[] = []
  #rest: Buffer = Buffer.alloc(0)

  constructor(image: FakeImage, isTlsRequired = false) {
    const terms = { name: Buffer.from('rootfs'), sizeBytes: image.sizeBytes, isWritable: image.isWritable }
    this.session = new Session({ image, terms, wire: this.wire, turns: this, isTlsRequired })
    this.wire.flush()
  }

  /** Bytes that came and were not taken. */
  get restBytes(): number {
    return this.#rest.length
  }

  /** Sends; returns what came back at once. */
  say(...parts: readonly Buffer[]): Buffer {
    this.#rest = Buffer.concat([this.#rest, ...parts])
    this.work()
    return this.wire.takeSent()
  }

  /** Gives turns as long as they are of use. */
  work(): void {
    do {
      this.session.resume()
      this.#rest = this.#rest.subarray(this.session.take(this.#rest, 0, this.#rest.length))
      this.wire.flush()
    } while (this.session.wants === 'turn' && !this.wire.isBlocked && !this.session.isOver)
  }

  onProgress(): void {
    this.wire.flush()
    if (this.session.wants === 'turn' && !this.wire.isBlocked) this.work()
  }

  onUnreadable(_page: number, code: string | undefined): void {
    this.unreadable.push(code)
  }

  onBroken(error: unknown): void {
    throw error
  }
}

/** A talk whose handshake is done. */
export function agreedTalk(image: FakeImage, { isStructured = true }: { readonly isStructured?: boolean } = {}): Talk {
  const talk = new Talk(image)
  talk.say(CLIENT_FLAGS)
  if (isStructured) talk.say(option(OPTION.structuredReply), option(OPTION.setMetaContext, contexts('', 'base:allocation')))
  talk.say(option(OPTION.go, go('')))
  return talk
}
