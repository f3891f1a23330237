/** Concurrency with a bound, over items that need no memory before their turn comes. */

export interface AtOnceOptions {
  /** Begin the remaining items even if one failed. Default: begin no more. */
  readonly keepGoing?: boolean
}

/** Calls `work` for every item, at most `limit` at a time. Settles when none is under way; the first failure is thrown then. */
export async function forEachAtOnce<T>(
  items: Iterable<T>,
  limit: number,
  work: (item: T) => Promise<void>,
  { keepGoing = false }: AtOnceOptions = {},
): Promise<void> {
  const failures: unknown[] = []
  const iterator = items[Symbol.iterator]()
  const runner = async (): Promise<void> => {
    while (keepGoing || failures.length === 0) {
      const next = iterator.next()
      if (next.done === true) break
      try {
        await work(next.value)
      } catch (error) {
        failures.push(error)
      }
    }
  }
  await Promise.all(Array.from({ length: limit }, runner))
  if (failures.length > 0) throw failures[0]
}
