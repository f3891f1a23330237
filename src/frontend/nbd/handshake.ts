/**
 * What client and server agree on before the first request: the greeting, then options one at a time, each with its answer, until one of them begins the transmission.
 *
 * It is a machine over bytes: it takes what has come as far as it is whole, and hands out answers. An option is taken as a whole, so it needs at most OPTION_BYTES_MAX of memory
 * until its end has come; longer ones are skipped. What the protocol calls for a hard disconnect is the state `over`.
 *
 * Where TLS is on nothing but STARTTLS and ABORT is answered before it ("FORCEDTLS").
 */
import { type Agreement, type ExportTerms, OptionReplies } from './option-replies.ts'
import {
  ALLOCATION_CONTEXT,
  ALLOCATION_CONTEXT_ID,
  GREETING_MAGIC,
  HANDSHAKE_FLAG,
  OPTION,
  OPTION_BYTES,
  OPTION_MAGIC,
  OPTION_REPLY,
  STRING_BYTES_MAX,
} from './protocol.ts'

/** `over`: the connection is to be closed once its answers have gone. `tls`: TLS begins now. */
export type HandshakeState = 'haggling' | 'tls' | 'agreed' | 'over'

/** Of an option's data. A name and three queries of the greatest length fit. */
const OPTION_BYTES_MAX: number = 2 ** 14
/** Most of what has come and is not whole: an option with its data; requests and parts of a page are less. */
export const SHORT_BYTES_MAX: number = OPTION_BYTES + OPTION_BYTES_MAX
/** Clients ask five or six; who asks without end is not one. */
const OPTIONS_MAX = 64

const CLIENT_FLAGS_BYTES = 4
const KNOWN_CLIENT_FLAGS = HANDSHAKE_FLAG.fixedNewstyle | HANDSHAKE_FLAG.noZeroes

export class Handshake {
  readonly #terms: ExportTerms
  readonly #replies: OptionReplies
  #state: HandshakeState = 'haggling'
  #agreement: Agreement = { hasStructuredReplies: false, hasAllocation: false }
  #tls: 'off' | 'required' | 'on'
  #hasFlags = false
  #wantsZeroes = true
  #optionsLeft = OPTIONS_MAX
  /** Bytes of an option that is too long. */
  #skip = 0

  /** @param send takes a copy of what it is given */
  constructor(terms: ExportTerms, { isTlsRequired, send }: { readonly isTlsRequired: boolean; send(bytes: Buffer): void }) {
    this.#terms = terms
    this.#replies = new OptionReplies(terms, send)
    this.#tls = isTlsRequired ? 'required' : 'off'
    const greeting = Buffer.alloc(GREETING_MAGIC.length + OPTION_MAGIC.length + 2)
    greeting.write(GREETING_MAGIC + OPTION_MAGIC, 'latin1')
    greeting.writeUInt16BE(HANDSHAKE_FLAG.fixedNewstyle | HANDSHAKE_FLAG.noZeroes, greeting.length - 2)
    send(greeting)
  }

  get state(): HandshakeState {
    return this.#state
  }

  get agreement(): Agreement {
    return this.#agreement
  }

  /** After `tls`, when the peer is behind TLS: nothing of what was said in the clear counts. */
  secured(): void {
    this.#tls = 'on'
    this.#state = 'haggling'
    this.#agreement = { hasStructuredReplies: false, hasAllocation: false }
  }

  /** Takes bytes [at, end), as far as they are whole, at most one option. @returns where the rest begins: `at` if more is needed */
  take(bytes: Buffer, at: number, end: number): number {
    if (!this.#hasFlags) return this.#takeFlags(bytes, at, end)
    if (this.#skip > 0) {
      const skipped = Math.min(this.#skip, end - at)
      this.#skip -= skipped
      return at + skipped
    }
    if (end - at < OPTION_BYTES) return at
    if (bytes.toString('latin1', at, at + OPTION_MAGIC.length) !== OPTION_MAGIC || this.#optionsLeft === 0) return this.#refuse(end)
    const option = bytes.readUInt32BE(at + 8)
    const sizeBytes = bytes.readUInt32BE(at + 12)
    const start = at + OPTION_BYTES
    if (sizeBytes > OPTION_BYTES_MAX) return this.#skipOption(option, sizeBytes, start)
    if (end - start < sizeBytes) return at
    this.#optionsLeft--
    this.#answer(option, bytes.subarray(start, start + sizeBytes))
    return start + sizeBytes
  }

  #takeFlags(bytes: Buffer, at: number, end: number): number {
    if (end - at < CLIENT_FLAGS_BYTES) return at
    const flags = bytes.readUInt32BE(at)
    if ((flags & ~KNOWN_CLIENT_FLAGS) !== 0) return this.#refuse(end)
    this.#hasFlags = true
    this.#wantsZeroes = (flags & HANDSHAKE_FLAG.noZeroes) === 0
    return at + CLIENT_FLAGS_BYTES
  }

  #refuse(end: number): number {
    this.#state = 'over'
    return end
  }

  #skipOption(option: number, sizeBytes: number, start: number): number {
    this.#optionsLeft--
    this.#skip = sizeBytes
    if (option === OPTION.exportName) this.#state = 'over'
    else this.#replies.reply(option, this.#tls === 'required' ? OPTION_REPLY.tlsRequired : OPTION_REPLY.tooBig)
    return start
  }

  #answer(option: number, data: Buffer): void {
    if (option === OPTION.abort) this.#abort()
    else if (option === OPTION.startTls) this.#startTls(data)
    else if (this.#tls === 'required') this.#refuseWithoutTls(option)
    else if (option === OPTION.exportName) this.#exportName(data)
    else this.#replies.reply(option, this.#outcomeOf(option, data))
  }

  /** Does what an option asks for. @returns what it is answered with, after all else */
  #outcomeOf(option: number, data: Buffer): number {
    switch (option) {
      case OPTION.list:
        return this.#list(data)
      case OPTION.info:
      case OPTION.go:
        return this.#go(option, data)
      case OPTION.structuredReply:
        return this.#agreeOnStructuredReplies(data)
      case OPTION.listMetaContext:
      case OPTION.setMetaContext:
        return this.#metaContext(option, data)
      default:
        return OPTION_REPLY.unsupported
    }
  }

  #abort(): void {
    this.#replies.reply(OPTION.abort, OPTION_REPLY.ack)
    this.#state = 'over'
  }

  #startTls(data: Buffer): void {
    const isRefused = this.#tls !== 'required' || data.length > 0
    const refusal = this.#tls === 'off' ? OPTION_REPLY.policy : OPTION_REPLY.invalid
    this.#replies.reply(OPTION.startTls, isRefused ? refusal : OPTION_REPLY.ack)
    if (!isRefused) this.#state = 'tls'
  }

  #refuseWithoutTls(option: number): void {
    // It cannot be answered with an error.
    if (option === OPTION.exportName) this.#state = 'over'
    else this.#replies.reply(option, OPTION_REPLY.tlsRequired)
  }

  #exportName(data: Buffer): void {
    if (this.#isOurs(data)) this.#replies.exportName(this.#agreement, this.#wantsZeroes)
    this.#state = this.#isOurs(data) ? 'agreed' : 'over'
  }

  #list(data: Buffer): number {
    if (data.length > 0) return OPTION_REPLY.invalid
    this.#replies.server()
    return OPTION_REPLY.ack
  }

  #go(option: number, data: Buffer): number {
    const name = stringAt(data, 0)
    const listAt = 4 + (name?.length ?? 0)
    if (name === undefined || data.length < listAt + 2 || data.length !== listAt + 2 + 2 * data.readUInt16BE(listAt)) {
      return OPTION_REPLY.invalid
    }
    if (!this.#isOurs(name)) return OPTION_REPLY.unknown
    const wanted = new Set<number>()
    for (let at = listAt + 2; at < data.length; at += 2) wanted.add(data.readUInt16BE(at))
    this.#replies.information(option, wanted, this.#agreement)
    if (option === OPTION.go) this.#state = 'agreed'
    return OPTION_REPLY.ack
  }

  #agreeOnStructuredReplies(data: Buffer): number {
    if (data.length > 0) return OPTION_REPLY.invalid
    this.#agreement = { ...this.#agreement, hasStructuredReplies: true }
    return OPTION_REPLY.ack
  }

  #metaContext(option: number, data: Buffer): number {
    const isSet = option === OPTION.setMetaContext
    if (isSet) this.#agreement = { ...this.#agreement, hasAllocation: false }
    const name = stringAt(data, 0)
    const queries = name && queriesAt(data, 4 + name.length)
    if (name === undefined || queries === undefined || !this.#agreement.hasStructuredReplies) return OPTION_REPLY.invalid
    if (!this.#isOurs(name)) return OPTION_REPLY.unknown
    const isMeant = isSet ? queries.includes(ALLOCATION_CONTEXT) : queries.length === 0 || queries.some(query => LISTED.includes(query))
    if (isMeant) this.#replies.metaContext(option, isSet ? ALLOCATION_CONTEXT_ID : 0)
    if (isMeant && isSet) this.#agreement = { ...this.#agreement, hasAllocation: true }
    return OPTION_REPLY.ack
  }

  /** The empty name is the default export: the only one there is. */
  #isOurs(name: Buffer): boolean {
    return name.length === 0 || name.equals(this.#terms.name)
  }
}

/** Queries that list the one context there is. */
const LISTED: readonly string[] = ['base:', ALLOCATION_CONTEXT]

/** A string with its length before it; undefined if it is not whole or too long. */
function stringAt(data: Buffer, at: number): Buffer | undefined {
  if (data.length < at + 4) return undefined
  const sizeBytes = data.readUInt32BE(at)
  if (sizeBytes > STRING_BYTES_MAX || data.length < at + 4 + sizeBytes) return undefined
  return data.subarray(at + 4, at + 4 + sizeBytes)
}

/** A count and that many strings, to the end of the data; undefined if that is not what there is. */
function queriesAt(data: Buffer, at: number): string[] | undefined {
  if (data.length < at + 4) return undefined
  const queries: string[] = []
  let next = at + 4
  for (let left = data.readUInt32BE(at); left > 0; left--) {
    const query = stringAt(data, next)
    if (query === undefined) return undefined
    queries.push(query.toString('utf8'))
    next += 4 + query.length
  }
  return next === data.length ? queries : undefined
}
