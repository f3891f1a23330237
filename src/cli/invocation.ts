/** One run of one command: what every command module is given. */
import type { Output } from './output.ts'
import type { GlobalFlags } from './settings.ts'

export interface Invocation {
  readonly flags: GlobalFlags
  readonly output: Output
  /** Fired by the first SIGINT or SIGTERM, with an `Interrupted` as its reason. */
  readonly signal: AbortSignal
}
