/**
 * A restore becomes a snapshot: what the guest wrote, and nothing else, is looked at.
 *
 * - Images that were served writable (FUSE, NBD) come from the overlay, which holds all that was written to the restore's snapshot.
 * - Memory behind userfaultfd was written to by nobody but the VMM: it comes as the VMM's diff file, under which lie the pages that the guest gave back: they are zero in the child.
 * - Images that are named are taken whole, all others are the parent's.
 *
 * The parent is the restore's snapshot. If the diffs begin at the last commit (Firecracker's do: to write one begins the next), it is that: pages that an earlier diff had are there alone.
 * Nobody can tell by a file where it begins, so whoever commits has to say, once there is more than one place.
 *
 * The guest has to be stopped. What was written through mappings of a mount is the kernel's until it is flushed, so the mounts are flushed before anything is looked at and once more
 * when all has been read: whatever the guest wrote meanwhile is counted by then, and fails the commit with CONFLICT. Bytes that nobody marks as written are not seen: those of a device
 * that writes to pinned memory of the VMM by itself, and those in caches before an NBD client. An image that lost a write cannot be committed.
 *
 * The commits of a restore are made in commit/commits.ts.
 */
import type { Layer } from './keys.ts'
import type { ImageSource, PushOptions, PushSpec } from './push.ts'

/** Where diff files begin: what they have was written since the restore's snapshot, or since its last commit that succeeded. */
export type DiffBase = 'snapshot' | 'last-commit'

export interface CommitOptions extends PushOptions {
  /** The VMM's diff file of each image that was served by userfaultfd; of others that a VMM wrote to itself too. An image that had one needs one, or to be taken whole, from then on. */
  readonly diffs?: Readonly<Record<string, string>> | undefined
  /**
   * Where they begin. Needed with `diffs` once the restore was committed, or a commit failed that had other diffs: by default they begin at the snapshot, and there is nothing
   * else. A commit that failed can be made again with the same files while the guest is stopped; if the VMM has begun a new diff since, the one before it is missing, and
   * `last-commit` is refused: take the image whole, or merge the two.
   */
  readonly diffBase?: DiffBase | undefined
  /** Images that are taken whole: the VMM's new state. */
  readonly images?: Readonly<Record<string, ImageSource>> | undefined
  /** Name of a tag, of the snapshot's tenant, to set once it is published. */
  readonly tag?: string | undefined
  readonly labels?: Readonly<Record<string, string>> | undefined
  /** Default: the parent's. */
  readonly layer?: Layer | undefined
  /** Default: the parent's. */
  readonly tenant?: string | undefined
}

/** A child of the restore's snapshot; what it does not say is the snapshot's. */
export interface ChildSpec extends Pick<PushSpec, 'images' | 'labels'>, Pick<CommitOptions, 'layer' | 'tenant' | 'tag'> {
  /** Full id of an earlier child that is its parent. Default: the restore's snapshot. */
  readonly parent?: string | undefined
}
