/** Bounded concurrency over a sequence of any length. */

/**
 * Calls `work` for every item, at most `limit` at a time, and settles when all did. The first error is thrown once those under way ended; no further item is begun.
 */
export async function forEachAtOnce<T>(
  items: Iterable<T> | AsyncIterable<T>,
  limit: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  const underWay = new Set<Promise<void>>()
  const errors: unknown[] = []
  for await (const item of items) {
    const done: Promise<void> = work(item)
      .catch(error => void errors.push(error))
      .finally(() => underWay.delete(done))
    underWay.add(done)
    if (underWay.size >= limit) await Promise.race(underWay)
    if (errors.length > 0) break
  }
  await Promise.all(underWay)
  if (errors.length > 0) throw errors[0]
}
