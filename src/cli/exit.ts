/**
 * How a run of the program ends: the exit codes, and the one place that decides which error means which.
 *
 * Nothing here loads the library: a mistyped flag must be answered before it is.
 */
import { CommanderError } from 'commander'
import type { ThawError } from '../index.ts'

export const EXIT = {
  done: 0,
  failed: 1,
  usage: 2,
  /** 128 + the signal's number, as shells count. */
  SIGINT: 130,
  SIGTERM: 143,
} as const

export type InterruptSignal = 'SIGINT' | 'SIGTERM'

/** Wrong arguments or settings, found by the command line itself. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
}

/** The reason of the abort signal that a first SIGINT or SIGTERM fires. */
export class Interrupted extends Error {
  override readonly name = 'Interrupted'
  readonly signal: InterruptSignal

  constructor(signal: InterruptSignal, remains: string) {
    super(`interrupted: ${remains}`)
    this.signal = signal
  }
}

/** A program could not be started in place of this one, because of `cause`: what is shown is that, with the exit code that is expected of starters. */
export class NotStarted extends Error {
  override readonly name = 'NotStarted'
  readonly exitCode: number

  constructor(exitCode: number, cause: unknown) {
    super('the program was not started', { cause })
    this.exitCode = exitCode
  }
}

/** What went wrong, by `cause`, with guests that were served. Being told to stop is how that ends, so it never stands for what went wrong then. */
export class EndFailed extends Error {
  override readonly name = 'EndFailed'

  constructor(cause: unknown) {
    super('it did not end well', { cause })
  }
}

/** An error as the user meets it. */
export interface Failure {
  readonly exitCode: number
  /** An ErrorCode of the library, or USAGE, INTERRUPTED, UNEXPECTED. */
  readonly code: string
  readonly retryable: boolean
  readonly object: string | undefined
  readonly message: string
}

export function failureOf(error: unknown): Failure {
  if (error instanceof NotStarted) return { ...failureOf(error.cause), exitCode: error.exitCode }
  if (error instanceof EndFailed) return failureOf(error.cause)
  if (isSuppressedError(error)) return failureOf(error.suppressed)
  if (isThawError(error)) {
    return { exitCode: EXIT.failed, code: error.code, retryable: error.retryable, object: error.object, message: error.message }
  }
  const message = error instanceof Error ? error.message : String(error)
  const rest = { retryable: false, object: undefined }
  if (error instanceof Interrupted) return { ...rest, exitCode: EXIT[error.signal], code: 'INTERRUPTED', retryable: true, message }
  if (error instanceof CommanderError) return { ...rest, exitCode: EXIT.usage, code: 'USAGE', message: usageOf(error) }
  if (isWrongArgument(error)) return { ...rest, exitCode: EXIT.usage, code: 'USAGE', message }
  return { ...rest, exitCode: EXIT.failed, code: 'UNEXPECTED', message }
}

/** The exit code where commander has shown all there is to show (help, version); undefined for errors. */
export function exitCodeOfHelp(error: unknown): number | undefined {
  if (!(error instanceof CommanderError)) return undefined
  if (error.exitCode === 0) return EXIT.done
  // Help that nobody asked for: a command is missing.
  return error.code === 'commander.help' ? EXIT.usage : undefined
}

/** Of what went wrong first (`suppressed`) and again while it was cleaned up. By name, because Node 22 lacks the class. */
function isSuppressedError(error: unknown): error is SuppressedError {
  return error instanceof Error && error.name === 'SuppressedError' && 'suppressed' in error
}

/** By name, because the class itself would bring the library with it. */
export function isThawError(error: unknown): error is ThawError {
  return error instanceof Error && error.name === 'ThawError'
}

function isWrongArgument(error: unknown): boolean {
  return error instanceof UsageError || error instanceof RangeError || error instanceof TypeError
}

function usageOf({ message }: CommanderError): string {
  return `${message.replace(/^error: |\.$/g, '').replaceAll('\n', ' ')}; see --help`
}
