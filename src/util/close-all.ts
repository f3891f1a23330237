/** Closes everything at the same time, and waits for all of it. @throws what the first of those that failed threw */
export async function closeAll(open: Iterable<{ close(): Promise<void> }>): Promise<void> {
  const closed = await Promise.allSettled(Array.from(open, one => one.close()))
  for (const one of closed) if (one.status === 'rejected') throw one.reason
}
