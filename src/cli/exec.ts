/**
 * `thaw exec`: becomes a VMM without huge-page read-ahead (exec.ts has what that is).
 *
 * The start of every VMM waits for it, so where the program comes first, which is nearly always, it runs without the command line's parser and without the library. It has no
 * options of its own: whatever follows the program's name is the program's. Those that all commands take may stand before `--`, and then commander reads them.
 *
 * Exit codes are those of `env` and `nice`, whose users tell a program's failure from its starter's: 127 not found, 126 found and not executable, 125 everything else
 * that went wrong before the program ran. Wrong usage stays 2.
 */
import { readFileSync } from 'node:fs'
import { execVmm } from '../exec.ts'
import { isThawError, NotStarted, UsageError } from './exit.ts'

/**
 * Runs `thaw exec` where its arguments are plain.
 * @param args what follows `exec`. @returns the exit code if the program could not be started; undefined if commander must look at the arguments
 */
export async function execAtOnce(args: readonly string[]): Promise<number | undefined> {
  const [program, ...rest] = args[0] === '--' ? args.slice(1) : args
  if (program === undefined || (args[0] !== '--' && program.startsWith('-'))) return undefined
  try {
    return await become([program, ...rest])
  } catch (error) {
    const { Output } = await import('./output.ts')
    return new Output({}).error(error).exitCode
  }
}

/** The same behind options of all commands. Without `--` they could not be told from those of the program. */
export async function execBehindOptions(command: readonly string[]): Promise<never> {
  const given = process.argv.slice(process.argv.indexOf('--') + 1)
  if (given.length !== command.length)
    throw new UsageError('options before the program need -- in front of it: thaw exec --json -- VMM ARGS...')
  return await become(command)
}

async function become(command: readonly string[]): Promise<never> {
  try {
    // Elsewhere it says what is missing.
    if (process.platform !== 'linux') return await execVmm(command[0]!)
    const [file, ...args] = lastArguments(command.length)
    return await execVmm(file!, args, { passFds: 'inherited' })
  } catch (error) {
    throw new NotStarted(exitCodeOf(error), error)
  }
}

/** The last arguments of this process as bytes: Node decodes them as UTF-8, and a path need not be. */
function lastArguments(count: number): readonly Buffer[] {
  const bytes = readFileSync('/proc/self/cmdline')
  const found: Buffer[] = []
  for (let end = bytes.length - 1; found.length < count; ) {
    const start = bytes.lastIndexOf(0, end - 1) + 1
    found.unshift(bytes.subarray(start, end))
    end = start - 1
  }
  return found
}

function exitCodeOf(error: unknown): number {
  if (!isThawError(error) || error.code === 'UNSUPPORTED') return 125
  return error.code === 'NOT_FOUND' ? 127 : 126
}
