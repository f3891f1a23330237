/**
 * Looks at what a server sends before ioredis parses it, and says when it cannot be right. A damaged length makes ioredis wait for ever or take the middle of a
 * value for replies, and a reply that nobody asked for can end the process: 6.0 reads such a null's text and throws that outside of any promise. A stream that
 * is refused here is closed, and what was asked on it fails.
 *
 * It follows the frame of RESP 2 (https://redis.io/docs/latest/develop/reference/protocol-spec/): types, lengths and nesting. Values are skipped, not read.
 */

/** No value is longer: more than all puts under way at a time may be. */
const BULK_BYTES_MAX = 64 * 2 ** 20
const LINE_BYTES_MAX = 4_096
const DEPTH_MAX = 8

const SIMPLE = /^(?:[+-][^\r\n]*|:-?\d{1,19})\r\n$/
const BULK = /^\$(-1|\d{1,9})\r\n$/
const ARRAY = /^\*(-1|\d{1,7})\r\n$/
const REDIRECTION = /^-(?:MOVED|ASK)\b/
/** Without a host, or with a port that is none, ioredis throws where nobody can catch it. */
const GOOD_REDIRECTION = /^-(?:MOVED|ASK) \d{1,5} [^\s:]\S*:\d{1,5}\r\n$/

const LINE_FEED = 10

export class ReplyGuard {
  /** How many elements are still to come in each array that has begun, the innermost last. */
  readonly #open: number[] = []
  /** Of a value and its line end. */
  #bulkBytesLeft = 0
  /** What came of a line that has not ended yet. */
  #line = ''

  /** Whether these bytes can be what follows, if that many replies (the one that has begun included) are awaited. After false it must not be used again. */
  accepts(chunk: Buffer, awaited: number): boolean {
    let replies = 0
    for (let at = 0; at < chunk.length; ) {
      if (this.#bulkBytesLeft > 0) {
        const bytes = Math.min(this.#bulkBytesLeft, chunk.length - at)
        at += bytes
        this.#bulkBytesLeft -= bytes
        if (this.#bulkBytesLeft === 0 && this.#elementEnds()) replies++
        continue
      }
      const isNewReply = this.#open.length === 0
      if (isNewReply && replies >= awaited) return false
      const end = chunk.indexOf(LINE_FEED, at) + 1 || chunk.length
      this.#line += chunk.toString('latin1', at, Math.min(end, at + LINE_BYTES_MAX))
      at = end
      if (this.#line.length >= LINE_BYTES_MAX) return false
      if (!this.#line.endsWith('\n')) break
      const element = this.#begin(this.#line)
      this.#line = ''
      if (element === 'bad') return false
      if (element === 'whole' && this.#elementEnds()) replies++
    }
    return true
  }

  #begin(line: string): 'whole' | 'begun' | 'bad' {
    if (REDIRECTION.test(line) && !GOOD_REDIRECTION.test(line)) return 'bad'
    if (SIMPLE.test(line)) return 'whole'
    const bulkBytes = BULK.exec(line)?.[1]
    if (bulkBytes !== undefined) return this.#beginBulk(Number(bulkBytes))
    const elements = ARRAY.exec(line)?.[1]
    return elements === undefined ? 'bad' : this.#beginArray(Number(elements))
  }

  #beginBulk(sizeBytes: number): 'whole' | 'begun' | 'bad' {
    if (sizeBytes < 0) return 'whole'
    if (sizeBytes > BULK_BYTES_MAX) return 'bad'
    this.#bulkBytesLeft = sizeBytes + 2
    return 'begun'
  }

  #beginArray(elements: number): 'whole' | 'begun' | 'bad' {
    if (elements <= 0) return 'whole'
    if (this.#open.length === DEPTH_MAX) return 'bad'
    this.#open.push(elements)
    return 'begun'
  }

  /** Returns whether the whole reply ends with this element. */
  #elementEnds(): boolean {
    while (this.#open.length > 0) {
      if (--this.#open[this.#open.length - 1]! > 0) return false
      this.#open.pop()
    }
    return true
  }
}
