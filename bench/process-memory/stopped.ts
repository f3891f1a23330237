/** Holds a process still while its memory is read: pages copied at different moments would be a state it never was in. */
import { readdir, readFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'

const POLL_MS = 1

/** Runs `work` while no thread of the process runs. The process goes on afterwards, whatever became of `work`. */
export async function whileStopped<T>(pid: number, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
  process.kill(pid, 'SIGSTOP')
  try {
    while (!(await isStopped(pid))) await sleep(POLL_MS, undefined, { signal })
    return await work()
  } finally {
    process.kill(pid, 'SIGCONT')
  }
}

/** A signal stops threads one by one; each says so in its own stat (proc_pid_stat(5), field 3). */
async function isStopped(pid: number): Promise<boolean> {
  const threads = await readdir(`/proc/${pid}/task`)
  // A thread that ends between the two reads is no stopped one; the next look does not list it.
  const stats = await Promise.all(threads.map(thread => readFile(`/proc/${pid}/task/${thread}/stat`, 'latin1').catch(() => '')))
  // Field 2 is the name in parentheses and may hold anything, so fields are counted from the last one.
  return stats.every(stat => stat.slice(stat.lastIndexOf(')') + 2).startsWith('T'))
}
