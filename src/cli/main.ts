/**
 * One run of the program, from its arguments to its exit code: signals, broken pipes, and the one line of an error.
 *
 * Ends by itself when the work is done; it does not call `process.exit`, which would cut off what is still being written.
 */
import { EndFailed, EXIT, exitCodeOfHelp } from './exit.ts'
import type { GlobalFlags } from './flags.ts'
import { listenForInterrupts } from './interrupts.ts'
import { Output } from './output.ts'
import { buildProgram } from './program.ts'

/** Commands that guests depend on. */
const SERVES = /^(mount|restore|serve )/

/** @param argv without the interpreter and the script; `packageJson` names the version. @returns the exit code; never rejects */
export async function main(argv: readonly string[], packageJson: URL): Promise<number> {
  let running = ''
  const output = (): Output => new Output(program.opts<GlobalFlags>())
  const program = buildProgram(packageJson, command => {
    running = command
    return { command, flags: program.opts<GlobalFlags>(), output: output(), signal }
  })
  const signal = listenForInterrupts(() => running)
  watchStreams(output, () => SERVES.test(running))
  try {
    await program.parseAsync(argv, { from: 'user' })
    return EXIT.done
  } catch (error) {
    const shown = exitCodeOfHelp(error)
    if (shown !== undefined) return shown
    // Whatever the work died of once it was told to stop, that is why.
    return output().error(signal.aborted && !(error instanceof EndFailed) ? signal.reason : error).exitCode
  }
}

/**
 * A reader that went away (`thaw ls | head -1`) has what it wanted: the program ends quietly. A standard output that cannot be written for another reason
 * (a full disk) is a failure. But no guest ends because nobody reads what happens to it. Nobody can be told that standard error is broken, and the work goes on without it.
 */
function watchStreams(output: () => Output, serves: () => boolean): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (serves()) return
    if (error.code === 'EPIPE') process.exit(EXIT.done)
    process.exit(output().error(new Error(`cannot write to standard output: ${error.code}`, { cause: error })).exitCode)
  })
  process.stderr.on('error', () => undefined)
}
