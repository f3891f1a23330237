/**
 * SIGINT and SIGTERM. The first asks the work to stop, by an abort signal, and the command ends when it has; the second ends the process at once, which is safe
 * because everything thaw publishes appears whole or not at all.
 */
import { Interrupted, type InterruptSignal } from './exit.ts'

const SIGNALS = ['SIGINT', 'SIGTERM'] as const satisfies readonly InterruptSignal[]

const RERUN = 'nothing was lost, run it again'

/** What an interrupted command leaves, where there is more to say than that. */
const REMAINS: Readonly<Record<string, string>> = {
  push: 'run the same command again, what is there is not sent again',
  pull: 'no file was changed, run it again',
}

/** Listens from now on until the process ends. `command` is asked at the time of the signal. */
export function listenForInterrupts(command: () => string): AbortSignal {
  const controller = new AbortController()
  for (const name of SIGNALS) {
    process.on(name, () => {
      if (controller.signal.aborted) return endAtOnce(name)
      controller.abort(new Interrupted(name, REMAINS[command()] ?? RERUN))
    })
  }
  return controller.signal
}

/** By the signal itself, which shells report as 130 or 143: `process.exit` would wait for a thread that is stuck in a read, of a pipe that stays silent. */
function endAtOnce(name: InterruptSignal): void {
  process.removeAllListeners(name)
  process.kill(process.pid, name)
}
