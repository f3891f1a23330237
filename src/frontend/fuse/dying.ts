/**
 * Whether a thread is about to die. The kernel tells a FUSE server that a request was interrupted by a signal, not by which; and only the first time.
 *
 * It matters: a read of a mapped page that fails, with EINTR like with any error, is a SIGBUS. QEMU signals its own threads all the time, and a guest must not die of it
 * because a page is slow; whoever was killed, or had Ctrl-C pressed, must not wait for the page. A signal that ends a process becomes a pending SIGKILL of each of its threads.
 */
import { readFileSync } from 'node:fs'

/** Bits of signals count from signal 1. */
const SIGKILL_BIT = 1n << 8n

/** @param thread as FUSE requests name it: an id in the namespace of whoever mounted; 0 if it is in another */
export function isDying(thread: number): boolean {
  if (thread === 0) return false
  try {
    // Fields of this file: proc_pid_status(5).
    const pending = /^SigPnd:\s*([0-9a-f]+)$/m.exec(readFileSync(`/proc/${thread}/status`, 'latin1'))?.[1]
    return pending !== undefined && (BigInt(`0x${pending}`) & SIGKILL_BIT) !== 0n
  } catch {
    // It has gone, or /proc is not to be read: then it waits until its page has come, or has not in time.
    return false
  }
}
