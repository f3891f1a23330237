/** Answers to options: bytes as the protocol lays them out. Nothing here decides anything. */
import {
  ALLOCATION_CONTEXT,
  BLOCK_BYTES_MIN,
  BLOCK_BYTES_PREFERRED,
  INFORMATION,
  OPTION,
  OPTION_REPLY,
  OPTION_REPLY_MAGIC,
  PAYLOAD_BYTES_MAX,
  TRANSMISSION_FLAG,
} from './protocol.ts'

/** The export, as clients are told of it. */
export interface ExportTerms {
  /** In UTF-8. The empty name means it, too. */
  readonly name: Buffer
  readonly sizeBytes: number
  /** Through this export: the image may be writable through another one. */
  readonly isWritable: boolean
}

/** What was agreed on. */
export interface Agreement {
  readonly hasStructuredReplies: boolean
  /** base:allocation can be asked for. */
  readonly hasAllocation: boolean
}

/** In reply to EXPORT_NAME, where the client did not say that it does without. */
const ZEROES_BYTES = 124
const HEADER_BYTES = 20

export class OptionReplies {
  readonly #terms: ExportTerms
  readonly #send: (bytes: Buffer) => void

  constructor(terms: ExportTerms, send: (bytes: Buffer) => void) {
    this.#terms = terms
    this.#send = send
  }

  /** @param type of OPTION_REPLY */
  reply(option: number, type: number, ...parts: readonly Buffer[]): void {
    const header = Buffer.alloc(HEADER_BYTES)
    OPTION_REPLY_MAGIC.copy(header)
    header.writeUInt32BE(option, 8)
    header.writeUInt32BE(type, 12)
    header.writeUInt32BE(
      parts.reduce((sum, { length }) => sum + length, 0),
      16,
    )
    this.#send(Buffer.concat([header, ...parts]))
  }

  /** One for each export, of which there is one. */
  server(): void {
    this.reply(OPTION.list, OPTION_REPLY.server, numbers([this.#terms.name.length, 4]), this.#terms.name)
  }

  /** The reply to EXPORT_NAME, which has no header. */
  exportName(agreement: Agreement, hasZeroes: boolean): void {
    this.#send(Buffer.concat([this.#sizeAndFlags(agreement), Buffer.alloc(hasZeroes ? ZEROES_BYTES : 0)]))
  }

  /** What is always told, and what was asked for and is known. */
  information(option: number, wanted: ReadonlySet<number>, agreement: Agreement): void {
    const { info } = OPTION_REPLY
    this.reply(option, info, numbers([INFORMATION.export, 2]), this.#sizeAndFlags(agreement))
    if (wanted.has(INFORMATION.name)) this.reply(option, info, numbers([INFORMATION.name, 2]), this.#terms.name)
    const sizes = numbers([INFORMATION.blockSize, 2], [BLOCK_BYTES_MIN, 4], [BLOCK_BYTES_PREFERRED, 4], [PAYLOAD_BYTES_MAX, 4])
    if (wanted.has(INFORMATION.blockSize)) this.reply(option, info, sizes)
  }

  metaContext(option: number, id: number): void {
    this.reply(option, OPTION_REPLY.metaContext, numbers([id, 4]), Buffer.from(ALLOCATION_CONTEXT))
  }

  #sizeAndFlags(agreement: Agreement): Buffer {
    const bytes = Buffer.alloc(10)
    bytes.writeBigUInt64BE(BigInt(this.#terms.sizeBytes))
    bytes.writeUInt16BE(transmissionFlags(this.#terms, agreement), 8)
    return bytes
  }
}

/** All connections of an export are served by one thread from the same pages, so what one wrote the others see: many connections are safe. */
function transmissionFlags({ isWritable }: ExportTerms, { hasStructuredReplies }: Agreement): number {
  const flag = TRANSMISSION_FLAG
  const always = flag.hasFlags | flag.canMultiConn | flag.sendCache | (hasStructuredReplies ? flag.sendDontFragment : 0)
  return isWritable
    ? always | flag.sendFlush | flag.sendFua | flag.sendTrim | flag.sendWriteZeroes | flag.sendFastZero
    : always | flag.readOnly
}

/** Unsigned numbers of 2 or 4 bytes, one behind the other. */
function numbers(...list: readonly (readonly [value: number, sizeBytes: 2 | 4])[]): Buffer {
  const bytes = Buffer.alloc(list.reduce((sum, [, sizeBytes]) => sum + sizeBytes, 0))
  let at = 0
  for (const [value, sizeBytes] of list) at = bytes.writeUIntBE(value, at, sizeBytes)
  return bytes
}
