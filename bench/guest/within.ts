/** The deadline that every wait for a guest has: an emulated machine that hangs is silent, and silence must end. */
import { ThawError } from '../../src/errors.ts'
import { Deadline } from '../../src/util/deadline.ts'

/**
 * What `wait` resolves to. It gets a signal that aborts with the caller's or after `timeoutMs`, and must settle when that does. Rejects
 * with the caller's reason, with TIMEOUT naming `what`, or as `wait` does.
 */
export async function within<T>(
  what: string,
  timeoutMs: number,
  signal: AbortSignal | undefined,
  wait: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  using deadline = new Deadline(timeoutMs, () => new ThawError('TIMEOUT', `${what}: not done after ${timeoutMs / 1000} s`), {
    signals: [signal],
  })
  deadline.signal.throwIfAborted()
  try {
    return await wait(deadline.signal)
  } catch (error) {
    // Timers and streams wrap the reason into an AbortError of their own.
    deadline.signal.throwIfAborted()
    throw error
  }
}
