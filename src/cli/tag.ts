/** `thaw tag` and `thaw untag`. */
import { formatTagName, parseRef, type SnapshotStore } from '../index.ts'
import { connectWithKeys } from './connect.ts'
import { UsageError } from './exit.ts'
import type { Invocation } from './invocation.ts'
import { parseTag } from './tag-argument.ts'

export interface TagFlags {
  readonly tenant?: string
  readonly ifAbsent?: boolean
  readonly expect?: string
}

export async function setTag(invocation: Invocation, { ref, tag }: { ref: string; tag: string }, flags: TagFlags): Promise<void> {
  const { output, signal } = invocation
  const name = parseTag(tag, flags.tenant)
  const { store } = await connectWithKeys(invocation)
  await using _ = store
  const expect = flags.expect === undefined ? undefined : await fullId(store, flags.expect, signal)
  const set = await store.tag(ref, name, { expect, ifAbsent: flags.ifAbsent, signal })
  output.done(set, () => [`${formatTagName(set)} names ${set.snapshot}`])
}

export async function untag(invocation: Invocation, tag: string, tenant: string | undefined): Promise<void> {
  const { output, signal } = invocation
  const name = parseTag(tag, tenant)
  const { store } = await connectWithKeys(invocation)
  await using _ = store
  await store.untag(name, { signal })
  output.done(name, () => [`deleted tag ${formatTagName(name)}`])
}

/** A full id is taken as it is: the snapshot that a tag named may be gone. */
async function fullId(store: SnapshotStore, id: string, signal: AbortSignal): Promise<string> {
  const ref = parseRef(id)
  if (ref.kind === 'id') return ref.id
  if (ref.kind === 'tag') throw new UsageError(`--expect ${JSON.stringify(id)} is not an id, nor at least 8 digits of its start`)
  return (await store.resolve(id, { signal })).id
}
