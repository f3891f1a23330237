/** What a command prints, if it ends well. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'

const OUTPUT_BYTES_MAX = 16 * 2 ** 20
const TIMEOUT_MS = 120_000

export async function output(command: string, args: readonly string[], signal: AbortSignal): Promise<string> {
  const { stdout } = await promisify(execFile)(command, [...args], { signal, timeout: TIMEOUT_MS, maxBuffer: OUTPUT_BYTES_MAX })
  return stdout
}
