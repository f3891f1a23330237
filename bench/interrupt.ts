/** How the programs here begin and end: one line for an error, and Ctrl-C that removes what is temporary. A second Ctrl-C ends the process at once. */

const EXIT_CODES = { SIGINT: 130, SIGTERM: 143 } as const

/**
 * Runs a program. An error is one line on standard error and exit code 1. The first SIGINT or SIGTERM aborts the signal; what `main` then rejects with is taken
 * for a consequence, and not printed: children die of the same Ctrl-C, and complaints about them are noise.
 */
export async function runMain(name: string, main: (signal: AbortSignal) => Promise<void>): Promise<void> {
  const controller = new AbortController()
  for (const by of ['SIGINT', 'SIGTERM'] as const) {
    process.once(by, () => {
      process.exitCode = EXIT_CODES[by]
      controller.abort(new Error(`stopped by ${by}`))
    })
  }
  try {
    await main(controller.signal)
  } catch (error) {
    if (controller.signal.aborted) return
    console.error(`${name}: ${error instanceof Error ? error.message : String(error)}`)
    process.exitCode = 1
  }
}
