/** Runs one long command without showing what it prints, unless it fails. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'

export interface RunOptions {
  readonly env: NodeJS.ProcessEnv
  readonly timeoutMs: number
  /** Called every `WORD_EVERY_MS` while the command runs, with the seconds it has taken: a quiet minute looks like a hang. */
  readonly onStillRunning?: (elapsedSeconds: number) => void
}

const WORD_EVERY_MS = 20_000

/** Enough for the error of any tool; a compiler's endless output must not fill memory. */
const TAIL_CHARACTERS = 4_000

/** Resolves when the command has exited with 0. Throws with the end of its output if it has not, or not in time. */
export async function runQuietly(command: string, args: readonly string[], options: RunOptions): Promise<void> {
  const { env, timeoutMs, onStillRunning } = options
  const started = performance.now()
  const word = setInterval(() => onStillRunning?.(Math.round((performance.now() - started) / 1000)), WORD_EVERY_MS)
  try {
    const child = spawn(command, args, { env, stdio: ['ignore', 'pipe', 'pipe'], timeout: timeoutMs, killSignal: 'SIGKILL' })
    let tail = ''
    const keep = (text: string): void => {
      tail = (tail + text).slice(-TAIL_CHARACTERS)
    }
    child.stdout.setEncoding('utf8').on('data', keep)
    child.stderr.setEncoding('utf8').on('data', keep)
    const [code, signal] = await once(child, 'close')
    if (code !== 0) throw new Error(`${command} ${args.join(' ')} ended with ${code ?? signal}\n${tail.trim()}`)
  } finally {
    clearInterval(word)
  }
}
