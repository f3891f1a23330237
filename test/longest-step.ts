/**
 * The longest step of this thread's event loop while something is done, in milliseconds of processor
 * time, so that what others do to the machine does not count. A step is a turn of the loop, with all
 * that its promises do.
 */
import koffi from 'koffi'

/** <time.h> */
const CLOCK_THREAD_CPUTIME_ID = 3

const time = koffi.load('libc.so.6').func('int clock_gettime(int clock, void* time)')
/** Seconds and nanoseconds. */
const timespec = new BigInt64Array(2)

export async function longestStep(work: () => Promise<unknown>): Promise<number> {
  let longest = 0
  let last = threadMs()
  const look = (): void => {
    const now = threadMs()
    longest = Math.max(longest, now - last)
    last = now
  }
  const onTurn = (): void => {
    look()
    next = setImmediate(onTurn)
  }
  let next = setImmediate(onTurn)
  try {
    await work()
    look()
  } finally {
    clearImmediate(next)
  }
  return longest
}

/** Node's own `threadCpuUsage` may be 4 ms old. */
function threadMs(): number {
  time(CLOCK_THREAD_CPUTIME_ID, timespec)
  return Number(timespec[0]) * 1000 + Number(timespec[1]) / 1e6
}
