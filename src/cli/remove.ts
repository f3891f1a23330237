/** `thaw rm`: takes ids only, because a tag may name another snapshot by the time it is read. */
import { parseRef } from '../index.ts'
import { connect } from './connect.ts'
import { UsageError } from './exit.ts'
import type { Invocation } from './invocation.ts'

export async function remove(invocation: Invocation, id: string, force: boolean): Promise<void> {
  if (parseRef(id).kind === 'tag') {
    throw new UsageError(`${JSON.stringify(id)} is a tag: delete it with \`thaw untag\`, or give the snapshot's id`)
  }
  await using store = await connect(invocation)
  const removed = await store.remove(id, { force, signal: invocation.signal })
  invocation.output.done(removed, () => [`removed ${removed.id}; chunks that nothing uses any more stay until they are collected`])
}
