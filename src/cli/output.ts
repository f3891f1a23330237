/**
 * What the program writes, and where. Standard output carries the answer and nothing else: human text, or with `--json` one document with
 * `schema: 1` (for lists one a line). Standard error carries the rest: warnings, notes, the summary, progress, the one line of an error.
 *
 * `--quiet` leaves only errors and what was asked for; `--json` silences everything human.
 */
import { type Failure, failureOf } from './exit.ts'
import { oneLine } from './format.ts'

const SCHEMA = 1
/** Causes of causes; a longer chain is a loop. */
const CAUSES_MAX = 16

export interface OutputFlags {
  readonly json?: boolean
  readonly quiet?: boolean
  readonly verbose?: boolean
}

export class Output {
  readonly json: boolean
  readonly #quiet: boolean
  readonly #verbose: boolean

  constructor({ json = false, quiet = false, verbose = false }: OutputFlags) {
    this.json = json
    this.#quiet = quiet
    this.#verbose = verbose
  }

  /** Whether a person watches standard error and wants to know more than the result. */
  get interactive(): boolean {
    return process.stderr.isTTY === true && !this.#quiet && !this.json
  }

  /** What the command was asked for: the document with `--json`, else the lines. */
  answer(document: object, lines: () => readonly string[]): void {
    this.#write(this.json ? [jsonLine(document)] : lines())
  }

  /** One of many answers, or one that was long in coming, as a line of JSON. Only with `--json`. */
  item(document: object): void {
    this.#write([jsonLine(document)])
  }

  /** The same for people. Only without `--json`. */
  lines(lines: readonly string[]): void {
    this.#write(lines)
  }

  /** Says what a command did that was not asked for an answer; nothing with `--quiet`. */
  done(document: object, lines: () => readonly string[]): void {
    this.answer(document, () => (this.#quiet ? [] : lines().map(oneLine)))
  }

  /** A person should know, though the command does what it was asked. */
  warn(text: string): void {
    if (!this.#quiet && !this.json) writeError(`thaw: warning: ${oneLine(text)}`)
  }

  /** Less than a warning. */
  note(text: string): void {
    if (!this.#quiet && !this.json) writeError(`thaw: ${oneLine(text)}`)
  }

  /** Only for who asked with `--verbose`. */
  detail(text: string): void {
    if (this.#verbose) this.note(text)
  }

  /** Figures at the end, for a person who watches or asked with `--verbose`. */
  summary(lines: () => readonly string[]): void {
    if (!this.interactive && (!this.#verbose || this.#quiet || this.json)) return
    for (const line of lines()) writeError(line)
  }

  /** The one line of an error, and with `--verbose` what caused it. */
  error(error: unknown): Failure {
    const failure = failureOf(error)
    const causes = this.#verbose ? causesOf(error) : []
    if (this.json) {
      writeError(errorJson(failure, causes))
    } else {
      writeError(`thaw: ${oneLine(failure.message)}`)
      for (const cause of causes) writeError(`  caused by ${cause}`)
    }
    return failure
  }

  #write(lines: readonly string[]): void {
    if (lines.length > 0) process.stdout.write(`${lines.join('\n')}\n`)
  }
}

/** A document on one line. Members that are undefined are null, so that a document of a kind always has the same members; maps are objects. */
export function jsonLine(document: object): string {
  return JSON.stringify({ schema: SCHEMA, ...document }, plain)
}

/** For `JSON.stringify`. */
export function plain(_key: string, value: unknown): unknown {
  if (value === undefined) return null
  return value instanceof Map ? Object.fromEntries(value) : value
}

function errorJson(
  { code, retryable, object = null, message }: Omit<Failure, 'object'> & { object?: string | undefined | null },
  causes: string[],
): string {
  return JSON.stringify({ error: { code, retryable, object, message, ...(causes.length > 0 && { causes }) } })
}

function causesOf(error: unknown): string[] {
  const causes: string[] = []
  for (let cause = causeOf(error); cause !== undefined && causes.length < CAUSES_MAX; cause = causeOf(cause))
    causes.push(oneLine(String(cause)))
  return causes
}

function causeOf(error: unknown): unknown {
  return error instanceof Error ? error.cause : undefined
}

/** Without the credentials of URLs, which errors of other code may repeat: an unknown option, say, with its value. */
function writeError(line: string): void {
  process.stderr.write(`${line.replace(/:\/\/[^\s"]*@/g, '://…@')}\n`)
}
