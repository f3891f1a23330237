/**
 * The longest step of this thread's event loop while something is done, in milliseconds. A step is a
 * turn of the loop, with all that its promises do.
 *
 * @param now default: processor time of this thread, so that what others do to the machine does not
 *   count; the kernel may bring it up to date only every 4 ms
 */
export async function longestStep(work: () => Promise<unknown>, now: () => number = threadMs): Promise<number> {
  let longest = 0
  let last = now()
  const look = (): void => {
    const at = now()
    longest = Math.max(longest, at - last)
    last = at
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

function threadMs(): number {
  const { user, system } = process.threadCpuUsage()
  return (user + system) / 1000
}
