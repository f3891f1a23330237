/** One run of one command: what every command module is given. */
import type { GlobalFlags } from './flags.ts'
import type { Output } from './output.ts'

export interface Invocation {
  /** As it is called: `cache warm`. */
  readonly command: string
  readonly flags: GlobalFlags
  readonly output: Output
  /** Fired by the first SIGINT or SIGTERM, with an `Interrupted` as its reason. */
  readonly signal: AbortSignal
}
